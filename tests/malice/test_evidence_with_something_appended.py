"""The attacker re-encodes evidence: bytes appended, lengths stretched, the other value of s."""

import os
from datetime import UTC, datetime

import dcap_qvl
import pytest

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.evidence import parse_quote
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(os.urandom(32))
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
COLLATERAL = VENDOR.collateral("sgx", now=NOW)
QUOTE = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def judge(quote: bytes) -> dict:
    return verify_quote(quote, collateral=COLLATERAL, now=NOW, anchor=ANCHOR)


def library_accepts(quote: bytes) -> bool:
    engine = dcap_qvl.QuoteCollateralV3.from_json(COLLATERAL)
    try:
        dcap_qvl.verify_with_root_ca(quote, engine, VENDOR.root_der, int(NOW.timestamp()))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "junk", [b"x", bytes(16) + b"x", QUOTE, os.urandom(16) + b"!"], ids=["x", "late", "twice", "16"]
)
def test_bytes_after_the_quote_are_refused_although_the_library_ignores_them(junk: bytes) -> None:
    assert library_accepts(QUOTE + junk)
    facts = judge(QUOTE + junk)
    assert (facts["verdict"], facts["step"]) == ("rejected", "format")


def test_bytes_hidden_inside_the_signature_section_are_refused() -> None:
    length = int.from_bytes(QUOTE[432:436], "little")
    stretched = QUOTE[:432] + (length + 9).to_bytes(4, "little") + QUOTE[436:] + b"smuggled!"
    assert library_accepts(stretched)
    facts = judge(stretched)
    assert (facts["verdict"], facts["step"]) == ("rejected", "format")
    assert "9 bytes after its last field" in facts["reason"]


def test_the_other_value_of_s_is_the_same_evidence_and_changes_nothing_that_is_bound() -> None:
    s = int.from_bytes(QUOTE[468:500], "big")
    malleated = QUOTE[:468] + (P256_ORDER - s).to_bytes(32, "big") + QUOTE[500:]
    one, other = judge(QUOTE), judge(malleated)
    assert malleated != QUOTE
    assert one["verdict"] == other["verdict"] == "verified"
    assert one["claims"] == other["claims"]
    assert parse_quote(malleated).signed == parse_quote(QUOTE).signed
