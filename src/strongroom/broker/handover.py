"""Stand by: be handed the store's key by a running broker of the same measurement, attested first (spec 4 §5.5).

The pure ruling on who is handed it stands here too, beside what both ends bind.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from strongroom.attestation.appraisal import AttestationResult
from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.roles import Role
from strongroom.attestation.tee import Tee, verifier_within
from strongroom.broker.client import BrokerClient
from strongroom.broker.keeping import Handed
from strongroom.broker.names import STANDBY_LABEL
from strongroom.digests import frame
from strongroom.envelope.hpke import KemKey
from strongroom.envelope.keys import DataKey
from strongroom.ledger.memory import CheckpointMemory

UP_TO_DATE = "UpToDate"


def ask_for_key(url: str, *, tee: Tee) -> Handed:
    """Return the store's key that the broker at ``url`` hands over, and its newest checkpoint.

    Raise EvidenceError unless it is of this very measurement, RefusedError with its reasons if it refuses.
    """
    with tempfile.TemporaryDirectory(prefix="strongroom-standby-") as directory:
        memory = CheckpointMemory(Path(directory) / "ledger.json")
        client = BrokerClient.attest(
            url, verifier=verifier_within(tee), expected_measurements=[tee.own_measurement], memory=memory
        )
        try:
            nonce, kem = client.nonce(), KemKey.generate()
            bound = standby_report_data(nonce=nonce, kem=kem.public, broker_spki=client.tls_spki)
            sealed = client.ask_for_handover(nonce=nonce, kem=kem.public, evidence=tee.evidence(bound))
            key = DataKey(kem.open(sealed, info=handover_info(nonce=nonce, origin=client.ledger_key.origin)))
            client.checkpoint()  # This very handover is what the store has to contain.
            return Handed(key=key, checkpoint=memory.recall_note())
        finally:
            client.close()


def standby_report_data(*, nonce: bytes, kem: bytes, broker_spki: bytes) -> bytes:
    """Return the REPORTDATA of a broker that asks the one with ``broker_spki`` to seal the store's key to ``kem``."""
    return report_data(
        role=Role.BROKER,
        nonce=nonce,
        exporter=b"",
        own_key=key_bundle_digest(STANDBY_LABEL, kem),
        peer_key=key_bundle_digest(broker_spki),
        job_digest=b"",
    )


def handover_info(*, nonce: bytes, origin: str) -> bytes:
    """Return the HPKE info under which the store's key is sealed to a standby."""
    return frame(b"strongroom/handover/v1", nonce, origin.encode())


def rule_on_standby(result: AttestationResult, *, own_measurement: str) -> tuple[str, ...]:
    """Return every reason why an appraised standby is not handed the key; none grants it."""
    reasons = []
    if result.measurement != own_measurement:
        reasons.append(
            f"it measures as {result.measurement}, this broker as {own_measurement}: "
            "another version is unsealed by the custodians"
        )
    if result.tcb_status != UP_TO_DATE:
        reasons.append(f"its platform is {result.tcb_status}, expected {UP_TO_DATE}")
    return tuple(reasons)
