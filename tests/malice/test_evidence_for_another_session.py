"""The attacker shows genuine evidence that was made for another session, connection, key, part or job."""

import os
from datetime import UTC, datetime

import pytest

from strongroom.attestation.appraisal import CollateralMemory, TrustAnchor, Verifier
from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.failures import ReportDataError
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx

NOW = datetime(2026, 3, 1, tzinfo=UTC)
VENDOR = Vendor(os.urandom(32))
SESSION = {
    "role": Role.WORKER,
    "nonce": os.urandom(32),
    "exporter": os.urandom(32),
    "own_key": key_bundle_digest(b"the worker's key"),
    "peer_key": key_bundle_digest(b"the driver's key"),
    "job_digest": os.urandom(48),
}


class Served:
    def collateral(self, quote: bytes) -> str:
        return VENDOR.collateral("sgx", now=NOW)


def evidence_for(session: dict) -> Evidence:
    facts = SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32)
    return Evidence(tee="sgx", quote=quote_sgx(VENDOR, facts, report_data=report_data(**session)))


@pytest.fixture
def verifier() -> Verifier:
    return Verifier(TrustAnchor(root_der=VENDOR.root_der, simulated=True), Served(), memory=CollateralMemory())


def test_evidence_made_for_this_session_is_accepted(verifier: Verifier) -> None:
    assert verifier.appraise(evidence_for(SESSION), report_data=report_data(**SESSION), now=NOW).simulated


@pytest.mark.parametrize(
    ("move", "made_for"),
    [
        ("replays evidence that answered an earlier nonce", {"nonce": os.urandom(32)}),
        ("relays evidence from another TLS connection", {"exporter": os.urandom(32)}),
        ("leaves the connection out of the evidence", {"exporter": b""}),
        ("borrows an honest worker's evidence for its own key", {"own_key": key_bundle_digest(b"an honest worker's")}),
        ("diverts evidence meant for another driver", {"peer_key": key_bundle_digest(b"another driver's key")}),
        ("reflects evidence of the driver itself", {"role": Role.DRIVER}),
        ("starts the right program on another job", {"job_digest": os.urandom(48)}),
        ("swaps the two keys", {"own_key": SESSION["peer_key"], "peer_key": SESSION["own_key"]}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_genuine_evidence_of_another_session_is_refused(verifier: Verifier, move: str, made_for: dict) -> None:
    stolen = evidence_for({**SESSION, **made_for})
    with pytest.raises(ReportDataError) as refused:
        verifier.appraise(stolen, report_data=report_data(**SESSION), now=NOW)
    assert refused.value.step == "report-data"
