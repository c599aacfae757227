"""Open attested channels, and hold either end's introduction: mutual TLS 1.3, then evidence both ways.

Source: spec/6-attested-channel.md. A channel exists only after both ends have verified each other and said so; no
application message is sent or accepted before. A failed introduction ends the connection, and a stranger learns only
what kind of thing failed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from strongroom.attestation.appraisal import AttestationResult, Verifier
from strongroom.attestation.encounter import (
    CONTROL,
    Attested,
    Check,
    Clock,
    Conversation,
    Encounter,
    End,
    PeerRefusedError,
    Renewal,
    Say,
    check_message,
    check_time,
    refusal,
)
from strongroom.attestation.record_line import RecordLine
from strongroom.attestation.records import EXPORTER_LABEL, SECRET_BYTES, Traffic
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, DeadlineError, LineClosedError, SecureLine
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import digest384
from strongroom.errors import StrongroomError, TransportError
from strongroom.statements import SigningKey

INTRODUCTION_SECONDS = 10.0
MESSAGE_SECONDS = 60.0
MAX_INTRODUCTION_BYTES = 2 << 20  # evidence has at most 64 KiB of quote and 1 MiB of event log, in base64

_SHARED_WAIT = 0.02  # between looks at what another thread received

Address = tuple[str, int]


def judged_by_caller(result: AttestationResult) -> None:
    """Leave the ruling on a verified result to whoever gets the channel, before it sends anything."""
    del result


class AttestedChannel(Attested):
    """A connection to a verified peer; one thread may send while another receives."""

    def __init__(self, line: SecureLine, renewal: Renewal, *, seconds: float) -> None:
        super().__init__(renewal, seconds=seconds)
        self._line = line
        self._inbox: deque[dict[str, Any]] = deque()
        self._receiving, self._renewing = threading.Lock(), threading.Lock()
        self._proofs: deque[dict[str, Any]] = deque()

    def send(self, message: dict[str, Any], *, deadline: float = MESSAGE_SECONDS) -> None:
        """Send one JSON object within ``deadline`` seconds; a failed send ends the channel."""
        self._say(check_message(message), Deadline(deadline))

    def receive(self, *, deadline: float = MESSAGE_SECONDS) -> dict[str, Any]:
        """Return the next JSON object; raise DeadlineError after ``deadline`` seconds, and the channel stays usable.

        A peer's request for fresh evidence is answered on the way.
        """
        limit = Deadline(deadline)
        if not self._receiving.acquire(timeout=max(limit.left, 0.0)):
            raise DeadlineError(f"another thread was receiving for {deadline:g} s")
        try:
            while not self._inbox:
                self._take_one(limit)
            return self._inbox.popleft()
        finally:
            self._receiving.release()

    def reattest(self, *, deadline: float = INTRODUCTION_SECONDS) -> AttestationResult | None:
        """Ask the peer for evidence over a fresh nonce, appraise it, return the result; a failure ends the channel.

        It works beside a thread that receives, and without one; application messages that arrive meanwhile are kept.
        """
        limit = Deadline(deadline)
        with self._renewing:
            try:
                self._say(self._renewal.ask(), limit)
                while not self._proofs:
                    check_time(limit)
                    if self._receiving.acquire(timeout=_SHARED_WAIT):
                        try:
                            if not self._proofs:
                                self._take_one(limit)
                        finally:
                            self._receiving.release()
                return self._renewal.judge(self._proofs.popleft()).peer.result
            except BaseException:
                self.close()
                raise

    def _take_one(self, limit: Deadline) -> None:
        """Receive one message and put it where it belongs."""
        message = self._line.receive(limit)
        if CONTROL not in message:
            self._inbox.append(message)
            return
        try:
            answer = self._renewal.answer(message)
            if answer is None:
                self._proofs.append(message)
            else:
                self._say(answer, Deadline(INTRODUCTION_SECONDS))
        except BaseException:
            self.close()
            raise

    def _say(self, message: dict[str, Any], limit: Deadline) -> None:
        try:
            self._line.send(message, limit)
        except DeadlineError:
            self.close()  # half a message is on the wire
            raise

    def write(self, data: bytes, *, deadline: float = MESSAGE_SECONDS) -> None:
        """Send bytes of a protocol that both ends agreed to speak from here on, instead of messages and renewals."""
        try:
            self._line.write(data, Deadline(deadline))
        except DeadlineError:
            self.close()
            raise

    def read(self, most: int, *, deadline: float = MESSAGE_SECONDS) -> bytes:
        """Return the next bytes of such a protocol; raise LineClosedError at its end."""
        return self._line.read(most, Deadline(deadline))

    def has_arrived(self) -> bool:
        """Return whether something can be read at once, the end of the connection included."""
        return self._line.has_arrived()

    def into_records(self, purpose: str, *parts: bytes) -> RecordLine:
        """Leave TLS and return the connection as a line of sealed records (spec/6 §10); the channel is of no more use.

        Both ends call it at the same point of what they say to each other, with the same ``purpose`` and ``parts``.
        """
        meeting = self._renewal.encounter.meeting
        ends = (meeting.peer, meeting.own) if self._line.server else (meeting.own, meeting.peer)
        named = [part for end in ends for part in (end.role.value.encode(), end.keys.digest)]
        context = (purpose.encode(), meeting.job_digest, *named, *parts)
        there, back = (
            Traffic(
                self._line.derive(
                    EXPORTER_LABEL, digest384("strongroom/records/v1", direction, *context), size=SECRET_BYTES
                )
            )
            for direction in (b"caller", b"called")
        )
        outgoing, incoming = (back, there) if self._line.server else (there, back)
        return RecordLine(self._line.leave(), outgoing=outgoing, incoming=incoming)

    def close(self) -> None:
        """End the channel; safe to call twice."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(
    address: Address,
    *,
    keys: WorkloadKeys,
    role: Role,
    expected_role: Role,
    verifier: Verifier,
    job_digest: bytes,
    tee: Tee | None = None,
    signer: SigningKey | None = None,
    check: Check = judged_by_caller,
    deadline: float = INTRODUCTION_SECONDS,
    clock: Clock = lambda: datetime.now(UTC),
) -> AttestedChannel:
    """Return a channel to the workload at ``address`` after both ends have verified each other.

    A workload passes its ``tee``; a client passes its party's ``signer`` instead. ``check`` may raise to refuse a
    verified result before the peer is told that it is trusted. ``deadline``: seconds for everything together.
    """
    end = End.prepare(
        role=role,
        keys=keys,
        tee=tee,
        signer=signer,
        admits=(expected_role,),
        verifier=verifier,
        job_digest=job_digest,
        check=check,
        clock=clock,
    )
    limit = Deadline(deadline)
    try:
        plain = socket.create_connection(address, timeout=max(limit.left, 0.001))
    except TimeoutError as error:
        raise DeadlineError(f"nobody answered at {name_address(address)} within {deadline:g} s") from error
    except OSError as error:
        raise TransportError(
            f"cannot reach {name_address(address)}: {error.strerror or error}",
            hint="is the workload running, and the port right?",
        ) from error
    return introduce(end, plain, server=False, deadline=limit)


def introduce(end: End, plain: socket.socket, *, server: bool, deadline: Deadline) -> AttestedChannel:
    """Return the channel, or close the connection and raise what failed."""
    started = time.monotonic()
    try:
        line = SecureLine(plain, keys=end.credentials.keys, server=server)
    except OSError as error:
        plain.close()
        raise LineClosedError("the other side closed the connection") from error
    try:
        line.shake_hands(deadline)
        conversation = end.converse(server=server, peer_spki=line.peer_spki, exporter=line.exporter)
        encounter = _hold(conversation, line, deadline)
    except StrongroomError as error:
        told = refusal(error)
        if told is not None:
            with contextlib.suppress(StrongroomError):
                line.send(told, Deadline(min(1.0, deadline.left)))
        line.close()
        raise
    except BaseException:
        line.close()
        raise
    return AttestedChannel(line, Renewal(end, encounter), seconds=time.monotonic() - started)


def _hold(conversation: Conversation, line: SecureLine, deadline: Deadline) -> Encounter:
    heard: dict[str, Any] | None = None
    while True:
        try:
            step = conversation.send(heard)
        except StopIteration as done:
            found: Encounter = done.value
            return found
        heard = None
        if isinstance(step, Say):
            line.send(step.message, deadline)
        else:
            heard = line.receive(deadline, most=MAX_INTRODUCTION_BYTES)


def name_address(address: Address) -> str:
    """Return ``host:port``."""
    return f"{address[0]}:{address[1]}"


__all__ = [
    "INTRODUCTION_SECONDS",
    "MAX_INTRODUCTION_BYTES",
    "MESSAGE_SECONDS",
    "Address",
    "AttestedChannel",
    "PeerRefusedError",
    "connect",
    "introduce",
    "judged_by_caller",
    "name_address",
]
