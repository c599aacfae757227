"""Take over a job from its analyst and attest the broker that its keys come from (spec/3-job.md §6).

Shared by whoever conducts a job: the driver, and the endpoint of a job of kind ``serve``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strongroom.attestation.appraisal import Verifier
from strongroom.attestation.channel import AttestedChannel
from strongroom.attestation.listener import Listener
from strongroom.broker.client import BrokerClient
from strongroom.errors import EvidenceError, RefusedError, StrongroomError
from strongroom.jobs.spec import JobSpec, job_digest, verify_job
from strongroom.ledger.memory import CheckpointMemory
from strongroom.statements import Statement
from strongroom.workload.handover import Handover


def take_over(channel: AttestedChannel, said: dict[str, Any], *, role: str, digest: str) -> tuple[Handover, JobSpec]:
    """Return the job that a client handed over if it has this ``digest`` and the client is its analyst."""
    handover = Handover.decode(said)
    statement = Statement.decode(handover.statement)
    spec = verify_job(statement, handover.program)
    if job_digest(statement) != digest:
        raise EvidenceError(
            f"this {role} was started for job {digest[:20]}…, but was handed {job_digest(statement)[:20]}…",
            step="job digest",
            hint="submit the job anew",
        )
    if channel.party != spec.analyst:
        raise RefusedError(
            "the job was handed over by somebody else than its analyst",
            reasons=(f"the client is {channel.party}, the job is by {spec.analyst}",),
        )
    return handover, spec


def attest_broker(handover: Handover, *, verifier: Verifier, scratch: Path) -> BrokerClient:
    """Return a client of the job's broker after attesting it, with what the analyst remembers of its ledger."""
    return BrokerClient.attest(
        handover.broker.url,
        verifier=verifier,
        expected_measurements=handover.broker.measurements,
        memory=CheckpointMemory.carried(scratch / "ledger.json", handover.checkpoint),
    )


def accept_each(listener: Listener, *, receive: Callable[[AttestedChannel], None], tell: Callable[..., None]) -> None:
    """Accept peers until ``listener`` is closed; each is received in a thread of its own, a refused one is told of."""
    while True:
        try:
            channel = listener.accept()
        except StrongroomError as error:
            if listener.closed:
                return
            tell("peer-refused", reason=error.message, kind=error.kind)
            continue
        threading.Thread(target=receive, args=(channel,), daemon=True).start()
