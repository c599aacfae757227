"""The attacker brings its own root, or asks the verifier to be less strict through environment and files."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, TdxFacts, quote_sgx, quote_tdx

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(b"x" * 32)
QUOTES = {
    "sgx": quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64)),
    "tdx": quote_tdx(VENDOR, TdxFacts(mr_td=b"D" * 48, rtmrs=(bytes(48),) * 4), report_data=bytes(64)),
}


@pytest.mark.parametrize("tee", QUOTES)
def test_a_home_made_vendor_is_refused_by_default_and_by_every_other_vendor(tee: str) -> None:
    collateral = VENDOR.collateral(tee, now=NOW)
    other = TrustAnchor(root_der=VENDOR.impostor().root_der, simulated=True)
    for anchor in (INTEL, other):
        facts = verify_quote(QUOTES[tee], collateral=collateral, now=NOW, anchor=anchor)
        assert facts["verdict"] == "rejected"
        assert "trust anchor" in facts["reason"]
    assert verify_quote(QUOTES[tee], collateral=collateral, now=NOW)["verdict"] == "rejected"


def test_home_made_evidence_with_a_genuine_vendors_collateral_and_the_reverse_are_refused() -> None:
    impostor = VENDOR.impostor()
    anchor = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
    forged = quote_sgx(impostor, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
    facts = verify_quote(forged, collateral=VENDOR.collateral("sgx", now=NOW), now=NOW, anchor=anchor)
    assert (facts["verdict"], facts["step"]) == ("rejected", "certificates")
    facts = verify_quote(QUOTES["sgx"], collateral=impostor.collateral("sgx", now=NOW), now=NOW, anchor=anchor)
    assert (facts["verdict"], facts["step"]) == ("rejected", "collateral")


def test_no_environment_variable_or_file_makes_the_verifier_trust_a_simulated_root(tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(QUOTES["sgx"])
    (tmp_path / "collateral").write_text(VENDOR.collateral("sgx", now=NOW))
    (tmp_path / "root.der").write_bytes(VENDOR.root_der)
    (tmp_path / "strongroom.toml").write_text("simulated = true\nallow_simulated = true\n")
    program = (
        "import sys; from pathlib import Path; from datetime import datetime, UTC;"
        "from strongroom.attestation.facts import verify_quote;"
        "here = Path.cwd();"
        "print(verify_quote((here / 'quote').read_bytes(), collateral=(here / 'collateral').read_text(),"
        "now=datetime(2026, 3, 1, tzinfo=UTC))['verdict'])"
    )
    switches = {
        name: value
        for name in ("STRONGROOM_SIMULATED", "STRONGROOM_ALLOW_SIMULATED", "STRONGROOM_DEBUG", "STRONGROOM_TEE")
        for value in ("1",)
    }
    switches |= {"STRONGROOM_ROOT": str(tmp_path / "root.der"), "STRONGROOM_TRUST_ANCHOR": str(tmp_path / "root.der")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **switches},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "rejected"
