"""Judge real SEV-SNP reports of AMD machines; the folder is named by STRONGROOM_VECTORS."""

import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest

from strongroom.attestation.amd_endorsements import ROOTS, compiled_in
from strongroom.attestation.collateral_sources import read_collateral
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.facts import verify_quote

VECTORS = Path(os.environ.get("STRONGROOM_VECTORS", Path(__file__).resolve().parents[3] / "shared" / "vectors"))
SNP, DSTACK = VECTORS / "coco-trustee" / "snp", VECTORS / "dstack"
pytestmark = pytest.mark.vectors
if not SNP.is_dir():
    reason = f"NO REAL SNP REPORTS WERE JUDGED: {SNP} does not exist; name the folder in STRONGROOM_VECTORS"
    warnings.warn(pytest.PytestWarning(reason), stacklevel=1)
    pytest.skip(reason, allow_module_level=True)

VCEK, VLEK = (SNP / "test-report.bin").read_bytes(), (SNP / "test-vlek-report.bin").read_bytes()
WHILE_VALID, AFTER_THE_VLEK = datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 12, 11, tzinfo=UTC)


def judge(report: bytes, certificate: str, now: datetime = WHILE_VALID, policy: str | None = None) -> dict:
    chosen = None if policy is None else AppraisalPolicy.parse(policy)
    return verify_quote(report, collateral=read_collateral(SNP / certificate), now=now, policy=chosen)


def test_a_real_report_verifies_with_the_chips_own_certificate_in_der() -> None:
    facts = judge(VCEK, "test-vcek.der")
    assert (facts["verdict"], facts["simulated"]) == ("verified", False)
    assert facts["claims"]["quote_version"] == 2
    assert facts["claims"]["platform"]["generation"] == "Milan"
    assert facts["claims"]["body"]["chip_id"].startswith("c38427a30d4c7af9")
    assert facts["claims"]["tcb"]["reported"] == {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115, "fmc": 0}


def test_a_real_report_verifies_with_its_providers_certificate_until_that_expires() -> None:
    facts = judge(VLEK, "test-vlek.der")
    assert facts["verdict"] == "verified"
    assert facts["claims"]["platform"]["csp"] == "CN=cc-us-east-2.amazonaws.com"
    assert facts["claims"]["body"]["vmpl"] == 1
    later = judge(VLEK, "test-vlek.der", now=AFTER_THE_VLEK)
    assert (later["verdict"], later["step"]) == ("rejected", "certificates")


@pytest.mark.parametrize("certificate", ["test-vcek-invalid-legacy.der", "test-vcek-invalid-new.der", "test-vlek.der"])
def test_a_real_report_is_rejected_with_another_certificate(certificate: str) -> None:
    facts = judge(VCEK, certificate)
    assert (facts["verdict"], facts["step"]) == ("rejected", "certificates")


def test_any_flipped_bit_in_a_real_report_is_rejected() -> None:
    for report, certificate in ((VCEK, "test-vcek.der"), (VLEK, "test-vlek.der")):
        for offset in [*range(0, 0x2A0, 23), *range(0x2A0, 0x330, 17), 1183]:
            flipped = bytearray(report)
            flipped[offset] ^= 0x08
            assert judge(bytes(flipped), certificate)["verdict"] == "rejected", offset


def test_a_recent_report_verifies_and_its_firmware_meets_or_misses_a_minimum() -> None:
    report = (DSTACK / "sev_snp_attestation.bin").read_bytes()[4:1188]
    chain = (DSTACK / "sev_snp_vcek.pem").read_text() + (DSTACK / "sev_snp_ask.pem").read_text()

    def accepted(least: int) -> dict:
        policy = AppraisalPolicy.parse(f"unknown_revocation = true\n[snp_minimum.Milan]\nsnp = {least}")
        return verify_quote(report, collateral=chain, now=datetime(2026, 8, 1, tzinfo=UTC), policy=policy)

    assert (accepted(23)["accepted"], accepted(23)["tier"]) == (True, "affirming")
    facts = accepted(24)
    assert (facts["accepted"], facts["status"]) == (False, "OutOfDate")
    assert "reported SNP firmware is 23, needs 24" in facts["reasons"][0]["reason"]


def test_the_compiled_in_roots_are_self_signed_and_vouch_for_both_authorities() -> None:
    for generation in ROOTS:
        ark, ask, asvk = compiled_in()[generation]
        for certificate in (ark, ask, asvk):
            certificate.verify_directly_issued_by(ark)
        assert (generation in ask.subject.rfc4514_string(), "VLEK" in asvk.subject.rfc4514_string()) == (True, True)
