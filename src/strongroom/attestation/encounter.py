"""Hold the introduction of a channel, and a later renewal of it, without touching a socket (spec/6 §2, §8).

A conversation is a generator: it yields what to say and when to hear, and is sent what was heard. The threaded and the
asyncio channel drive the same one, so that no order of steps exists twice.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

from strongroom.attestation.appraisal import AttestationResult, Verifier
from strongroom.attestation.binding import NONCE_BYTES
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.introduction import (
    Credentials,
    Greeting,
    Meeting,
    Peer,
    WrongRoleError,
    check_job_digest,
    verify_proof,
)
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, DeadlineError, ProtocolError
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import PublicKeys, WorkloadKeys
from strongroom.errors import EvidenceError, UsageError
from strongroom.statements import PartyId, SigningKey

CONTROL: Final = "strongroom-channel"
"""The member that marks a message as the channel's own; no application message may have it."""
MOST_OFTEN: Final = 1.0
"""Seconds between two renewals that a peer may ask for: evidence costs time in the TEE."""
_AGAIN, _PROOF = "again", "proof"

Clock = Callable[[], datetime]
Check = Callable[[AttestationResult], None]


class PeerRefusedError(EvidenceError):
    """The other end does not trust us; it says only what kind of thing failed."""


class ChangedPeerError(EvidenceError):
    """The other end renewed its evidence, and is no longer what it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """A message to send now."""

    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hear:
    """Wait for the next message."""


Conversation = Generator[Say | Hear, "dict[str, Any] | None", "Encounter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encounter:
    """Who met whom, when, over which session: what a channel is made of."""

    meeting: Meeting
    peer: Peer
    attested_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end's side of every introduction: how it proves itself, and whom it believes."""

    credentials: Credentials
    admits: frozenset[Role]
    verifier: Verifier
    job_digest: bytes
    check: Check
    clock: Clock

    @classmethod
    def prepare(
        cls,
        *,
        role: Role,
        keys: WorkloadKeys,
        tee: Tee | None,
        signer: SigningKey | None,
        admits: Collection[Role],
        verifier: Verifier,
        job_digest: bytes,
        check: Check,
        clock: Clock,
    ) -> Self:
        """Return an end that proves itself by its TEE or its party's signature, and belongs to one job."""
        return cls(
            credentials=Credentials(role=role, keys=keys, tee=tee, signer=signer),
            admits=frozenset(admits),
            verifier=verifier,
            job_digest=check_job_digest(job_digest),
            check=check,
            clock=clock,
        )

    def converse(self, *, server: bool, peer_spki: bytes, exporter: bytes) -> Conversation:
        """Hold the introduction over a TLS session; raise what fails, and return who is at the other end."""
        own = Greeting.fresh(role=self.credentials.role, keys=self.credentials.keys.public)
        yield Say(message=own.to_json())
        meeting = Meeting.arrange(
            own=own,
            peer=Greeting.parse((yield from _hear())),
            peer_spki=peer_spki,
            exporter=exporter,
            job_digest=self.job_digest,
        )
        if meeting.peer.role not in self.admits:
            raise WrongRoleError(
                f"the other end has the role {meeting.peer.role.value}, expected {' or '.join(sorted(self.admits))}",
                step="role",
            )
        # The end that came asking proves itself first, so that strangers cannot make a listener produce quotes.
        if not server:
            yield Say(message=self.credentials.prove(meeting))
        now, peer = self._verify((yield from _hear()), meeting)
        if server:
            yield Say(message=self.credentials.prove(meeting))
        yield Say(message={"ok": True})
        if (yield from _hear()) != {"ok": True}:
            raise ProtocolError("expected ok after the proofs")
        return Encounter(meeting=meeting, peer=peer, attested_at=now)

    def _verify(self, proof: dict[str, Any], meeting: Meeting) -> tuple[datetime, Peer]:
        now = self.clock()
        peer = verify_proof(proof, meeting, verifier=self.verifier, now=now)
        if peer.result is not None:
            self.check(peer.result)
        return now, peer


class Renewal:
    """Renews evidence on an open channel (spec/6 §8): asks, answers, judges; the channel carries the messages."""

    def __init__(self, end: End, encounter: Encounter) -> None:
        self._end = end
        self.encounter = encounter
        self._asked: bytes | None = None
        self._answered = -MOST_OFTEN

    def ask(self) -> dict[str, Any]:
        """Return a request for fresh evidence over a new nonce."""
        self._asked = secrets.token_bytes(NONCE_BYTES)
        return {CONTROL: _AGAIN, "nonce": base64.b64encode(self._asked).decode()}

    def answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Return the proof that a peer's request calls for, or None if ``message`` is a proof, to be judged."""
        kind, value = message.get(CONTROL), message.get("nonce")
        if kind == _PROOF and self._asked is not None:
            return None
        if kind != _AGAIN or set(message) != {CONTROL, "nonce"} or not isinstance(value, str):
            raise ProtocolError("a message of the channel itself is a request for evidence, or evidence asked for")
        try:
            nonce = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ProtocolError("a nonce is base64") from error
        meeting = self.encounter.meeting
        if len(nonce) != NONCE_BYTES or nonce in (meeting.own.nonce, self._asked):
            raise ProtocolError(f"a nonce has {NONCE_BYTES} bytes and is the other end's own")
        if time.monotonic() - self._answered < MOST_OFTEN:
            raise ProtocolError(f"evidence is asked for at most once in {MOST_OFTEN:g} s")
        self._answered = time.monotonic()
        again = replace(meeting, peer=replace(meeting.peer, nonce=nonce))
        return {CONTROL: _PROOF, **self._end.credentials.prove(again)}

    def judge(self, message: dict[str, Any]) -> Encounter:
        """Return the renewed encounter; raise EvidenceError if the peer fails, or is no longer what it was."""
        if self._asked is None:
            raise ProtocolError("evidence that nobody asked for")
        meeting, before = self.encounter.meeting, self.encounter.peer
        again = replace(meeting, own=replace(meeting.own, nonce=self._asked))
        self._asked = None
        now = self._end.clock()
        proof = {name: value for name, value in message.items() if name != CONTROL}
        peer = verify_proof(proof, again, verifier=self._end.verifier, now=now)
        if peer.result is not None:
            self._end.check(peer.result)
        was = before.result.measurement if before.result else str(before.party)
        is_now = peer.result.measurement if peer.result else str(peer.party)
        if was != is_now:
            raise ChangedPeerError(f"the other end was {was}, and is now {is_now}", step="measurement")
        self.encounter = Encounter(meeting=meeting, peer=peer, attested_at=now)
        return self.encounter


class Attested:
    """What a channel says of its peer, whichever way it is driven."""

    def __init__(self, renewal: Renewal, *, seconds: float) -> None:
        self._renewal = renewal
        self.seconds = seconds

    @property
    def attested_at(self) -> datetime:
        """Return when the peer's evidence was last appraised."""
        return self._renewal.encounter.attested_at

    @property
    def _peer(self) -> Peer:
        return self._renewal.encounter.peer

    @property
    def peer(self) -> AttestationResult | None:
        """Return the peer's attestation result; None for a client, which has a :attr:`party` instead."""
        return self._peer.result

    @property
    def evidence(self) -> Evidence | None:
        """Return the evidence that the peer presented, for records; it proves nothing on any other channel."""
        return self._peer.evidence

    @property
    def party(self) -> PartyId | None:
        """Return the party that a client proved to speak for; None for an attested workload."""
        return self._peer.party

    @property
    def peer_role(self) -> Role:
        """Return the part that the peer plays."""
        return self._peer.role

    @property
    def peer_keys(self) -> PublicKeys:
        """Return the peer's public keys, to which its evidence commits."""
        return self._peer.keys


def _hear() -> Generator[Say | Hear, dict[str, Any] | None, dict[str, Any]]:
    message = yield Hear()
    if message is None:
        raise UsageError("a conversation was not told what was heard")
    if set(message) == {"refused"}:
        raise PeerRefusedError(
            f"the other end refused us: {str(message['refused'])[:60]}",
            step="peer",
            hint="its own log says why; most often another job, measurement or trust anchor was expected",
        )
    return message


def refusal(error: Exception) -> dict[str, Any] | None:
    """Return what a stranger is told of a failed introduction: the kind of a failed proof, and nothing else."""
    if isinstance(error, EvidenceError) and not isinstance(error, PeerRefusedError):
        return {"refused": error.kind}
    return None


def check_time(limit: Deadline) -> None:
    """Raise DeadlineError if no time is left for the peer's fresh evidence."""
    if limit.left <= 0:
        raise DeadlineError(f"the other side gave no fresh evidence within {limit.seconds:g} s")


def check_message(message: dict[str, Any]) -> dict[str, Any]:
    """Return an application's message; raise UsageError if it has the member that is the channel's own."""
    if CONTROL in message:
        raise UsageError(f"{CONTROL!r} is the channel's own member", hint="give the message another one")
    return message
