"""The attacker owns one genuine machine and lets its certificate sign the TCB levels it is judged by."""

import os
from datetime import UTC, datetime

import dcap_qvl
import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(os.urandom(32))
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
QUOTE = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))


@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
def test_a_platform_cannot_sign_its_own_levels_although_the_library_would_let_it(document: str) -> None:
    faults = Faults(**{f"{document}_signed_by_pck": True})
    collateral = VENDOR.collateral("sgx", now=NOW, faults=faults)
    engine = dcap_qvl.QuoteCollateralV3.from_json(collateral)
    theirs = dcap_qvl.verify_with_root_ca(QUOTE, engine, VENDOR.root_der, int(NOW.timestamp()))
    assert theirs.status == "UpToDate"  # the gap that is closed here; when this fails, the library closed it too
    facts = verify_quote(QUOTE, collateral=collateral, now=NOW, anchor=ANCHOR)
    assert (facts["verdict"], facts["step"]) == ("rejected", "collateral")
    assert document in facts["reason"]
    assert "TCB Signing" in facts["reason"]
