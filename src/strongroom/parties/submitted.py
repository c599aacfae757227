"""Keep what an analyst knows of a job from submitting it to its end, also where it goes on without its client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from strongroom.attestation.appraisal import AttestationResult
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import PublicKeys
from strongroom.broker.client import Ticket
from strongroom.errors import EvidenceError, StrongroomError, UsageError
from strongroom.jobs.launch import Leavable, Placement
from strongroom.jobs.launch.placement import PlacementError
from strongroom.jobs.spec import SignedJob


@dataclass(slots=True)
class SubmittedJob:
    """A signed job that the broker took in, with the ticket that lets one driver run it.

    ``broker_url`` is where the job's processes reach the broker, if not where its client does.
    """

    signed: SignedJob
    ticket: Ticket
    digest: str
    timings: dict[str, float] = field(default_factory=dict)
    launcher: Placement | None = None
    broker_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftJob:
    """A job that was handed over and goes on without its client, and what to remember of it.

    ``driver`` are the keys of the driver that was attested: whoever speaks of this job later must hold them.
    """

    job: str
    digest: str
    name: str
    outputs: tuple[str, ...]
    driver: PublicKeys
    timings: Mapping[str, float]
    simulated: bool
    role: Role = Role.DRIVER


Remember = Callable[[LeftJob], None]


def note_end(launcher: Placement, state: str, *, why: str = "") -> None:
    """Note how a job ended, where its host keeps a history."""
    if isinstance(launcher, Leavable):
        launcher.note_end(state, why=why)


def note_failure(launcher: Placement, error: BaseException) -> None:
    """Note why a job failed, in the host's words alone: a driver's are for its analyst."""
    if isinstance(error, StrongroomError):
        note_end(launcher, "failed", why=error.message if isinstance(error, PlacementError) else error.kind)
    else:
        note_end(launcher, "cancelled", why="its client was interrupted")


def keeping(launcher: Placement) -> Leavable:
    """Return a placement that goes on without its client; raise UsageError if this one cannot."""
    if isinstance(launcher, Leavable):
        return launcher
    raise UsageError("this host cannot keep a job without its client", hint="use --cluster k8s")


def expect_kind(result: AttestationResult, wanted: str) -> None:
    """Raise EvidenceError unless ``result`` is of the kind of TEE that the job asks for."""
    if wanted not in ("any", result.tee):
        raise EvidenceError(
            f"the job asks for {wanted}, and the driver runs in {result.tee}",
            step="kind of TEE",
            hint="its host placed it elsewhere than it was asked to; choose another host",
        )
