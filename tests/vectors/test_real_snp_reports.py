"""Judge real SEV-SNP reports of AMD machines; the folder is named by STRONGROOM_VECTORS."""

import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest

from strongroom.attestation.amd_endorsements import ROOTS, compiled_in
from strongroom.attestation.collateral_sources import read_collateral
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.evidence.scale import unwrap_scale
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


def test_a_real_azure_guest_verifies_with_both_bindings_and_not_with_a_flipped_bit() -> None:
    evidence = (VECTORS / "coco-trustee" / "az-snp-vtpm" / "evidence-v2.json").read_bytes()
    facts = verify_quote(evidence, collateral="", now=WHILE_VALID)
    assert (facts["verdict"], facts["simulated"]) == ("verified", False)
    assert facts["claims"]["body"]["both_bindings"] is True
    assert facts["claims"]["report_data"].startswith("982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9a")
    assert facts["claims"]["body"]["pcr0"] == "84275b2f4312cd4fc6cbe6b152ad3c3683e513d9f1e23c34fca160c8cca7a6a7"
    for here in (b'"signature": "', b'"signature":"', b'"message": "', b'"message":"', b'"hcl_report": "'):
        place = evidence.find(here)
        if place >= 0:
            place += len(here) + 500 * (b"hcl" in here)
            other = b"1" if evidence[place : place + 1] != b"1" else b"2"
            flipped = evidence[:place] + other + evidence[place + 1 :]
            assert verify_quote(flipped, collateral="", now=WHILE_VALID)["verdict"] == "rejected", here


def test_a_real_azure_trust_domain_is_rejected_for_the_page_faults_its_host_may_inject() -> None:
    evidence = (VECTORS / "coco-trustee" / "az-tdx-vtpm" / "evidence-v1.json").read_bytes()
    collateral = (VECTORS / "composed-collateral" / "automata-0625-00806F05.json").read_text()
    facts = verify_quote(evidence, collateral=collateral, now=datetime.fromtimestamp(1751621958, UTC))
    assert (facts["verdict"], facts["step"]) == ("rejected", "attributes")
    assert "SEPT_VE_DISABLE" in facts["reason"]


def test_real_nitro_documents_verify_for_three_hours_and_a_debug_one_never_does() -> None:
    genuine = unwrap_scale((DSTACK / "nitro_attestation.bin").read_bytes())
    facts = verify_quote(genuine, collateral="", now=datetime.fromtimestamp(1766668537, UTC))
    assert (facts["verdict"], facts["simulated"]) == ("verified", False)
    assert facts["claims"]["body"]["pcr0"].startswith("5cb702954321826d7939")
    later = verify_quote(genuine, collateral="", now=datetime.fromtimestamp(1766668537 + 4 * 3600, UTC))
    assert (later["verdict"], later["step"]) == ("rejected", "certificates")
    debug = unwrap_scale((DSTACK / "nitro_attestation_dbg.bin").read_bytes())
    facts = verify_quote(debug, collateral="", now=datetime.fromtimestamp(1766650846, UTC))
    assert (facts["verdict"], facts["step"]) == ("rejected", "attributes")
    for offset in range(0, len(genuine), 97):
        flipped = bytearray(genuine)
        flipped[offset] ^= 1
        now = datetime.fromtimestamp(1766668537, UTC)
        assert verify_quote(bytes(flipped), collateral="", now=now)["verdict"] == "rejected", offset
