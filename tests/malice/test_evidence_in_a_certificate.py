"""The attacker shows a genuine TEE's quote in a certificate: of its own key, or replayed from the TEE's handshake."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "attestation"))

from ra_tls_maker import FORMS, make_certificate

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.appraisal import CollateralMemory, Verifier
from strongroom.attestation.collateral_sources import CollateralFile
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.evidence.ra_tls import parse_ra_tls
from strongroom.attestation.facts import verify_quote
from strongroom.attestation.failures import MalformedEvidenceError, ReportDataError
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(os.urandom(32))
ANCHOR = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
COLLATERAL = VENDOR.collateral("sgx", now=NOW)


def genuine(report_data: bytes) -> bytes:
    return quote_sgx(VENDOR, SgxFacts(mr_enclave=b"G" * 32, mr_signer=b"S" * 32), report_data=report_data)


def judge(certificate: bytes) -> dict:
    found = parse_ra_tls(certificate)
    return verify_quote(found.quote, collateral=COLLATERAL, now=NOW, anchor=ANCHOR, certificate=found)


@pytest.mark.parametrize("form", FORMS)
def test_another_tees_quote_in_the_attackers_certificate_is_rejected(form: str) -> None:
    theirs, attackers = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    facts = judge(make_certificate(form, genuine, key=attackers, committed=theirs))
    assert (facts["verdict"], facts["step"]) == ("rejected", "report-data")
    assert "does not commit to the key" in facts["reason"]


@pytest.mark.parametrize("form", FORMS)
def test_the_tees_own_certificate_is_reported_and_never_sufficient(form: str) -> None:
    facts = judge(make_certificate(form, genuine))
    assert facts["verdict"] == "verified"
    assert (facts["certificate"]["form"], facts["certificate"]["sufficient"]) == (form, False)
    assert facts["certificate"]["binding"]
    assert "replayed and relayed" in facts["certificate"]["warning"]


def test_claims_edited_to_name_the_attackers_key_are_no_longer_what_the_quote_commits_to() -> None:
    theirs, attackers = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    report_data: list[bytes] = []

    def record(asked: bytes) -> bytes:
        report_data.append(asked)
        return genuine(report_data[0])

    make_certificate(FORMS[0], record, key=theirs)
    facts = judge(make_certificate(FORMS[0], record, key=attackers))
    assert (facts["verdict"], facts["step"]) == ("rejected", "report-data")


def test_a_channel_takes_neither_the_certificate_nor_the_quote_in_it(tmp_path: Path) -> None:
    """Whoever stole the certificate's key and replays it has no evidence over the session's own report data."""
    (tmp_path / "collateral.json").write_text(COLLATERAL)
    verifier = Verifier(ANCHOR, CollateralFile(tmp_path / "collateral.json"), memory=CollateralMemory())
    certificate = make_certificate(FORMS[0], genuine)
    with pytest.raises(MalformedEvidenceError):
        verifier.appraise(Evidence(tee="sgx", quote=certificate), report_data=os.urandom(64), now=NOW)
    stolen = Evidence(tee="sgx", quote=parse_ra_tls(certificate).quote)
    with pytest.raises(ReportDataError):
        verifier.appraise(stolen, report_data=os.urandom(64), now=NOW)


def test_a_certificate_with_two_pieces_of_evidence_or_none_is_refused() -> None:
    for broken in (VENDOR.root_der, b"\x30\x82\x00\x04\x30\x82\x00\x00", make_certificate(FORMS[1], genuine)[:-40]):
        with pytest.raises(MalformedEvidenceError):
            parse_ra_tls(broken)
