"""Open and accept attested channels: mutual TLS 1.3, then evidence both ways (spec/6-attested-channel.md).

A channel exists only after both ends have verified each other and said so; no application message is sent or accepted
before. A failed introduction ends the connection, and a stranger learns only what kind of thing failed.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection
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
from strongroom.attestation.secure_line import Deadline, DeadlineError, LineClosedError, ProtocolError, SecureLine
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import digest384
from strongroom.errors import StrongroomError, TransportError
from strongroom.statements import SigningKey

INTRODUCTION_SECONDS = 10.0
MESSAGE_SECONDS = 60.0
MAX_PENDING = 32
MAX_WAITING = 256
MAX_INTRODUCTION_BYTES = 2 << 20  # evidence has at most 64 KiB of quote and 1 MiB of event log, in base64

_SHARED_WAIT = 0.02  # between looks at what another thread received

Address = tuple[str, int]


class ListenerClosedError(TransportError):
    """The listener was closed."""


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
        raise DeadlineError(f"nobody answered at {_name(address)} within {deadline:g} s") from error
    except OSError as error:
        raise TransportError(
            f"cannot reach {_name(address)}: {error.strerror or error}",
            hint="is the workload running, and the port right?",
        ) from error
    return _introduce(end, plain, server=False, deadline=limit)


class Listener:
    """Accepts channels at one address; strangers wait in line, never in the way.

    Every introduction runs in a thread of its own within ``deadline`` seconds. At most ``max_pending`` run at once;
    when another stranger comes, the one that has been stalling longest is dropped.
    """

    def __init__(
        self,
        address: Address,
        *,
        keys: WorkloadKeys,
        role: Role,
        tee: Tee,
        verifier: Verifier,
        job_digest: bytes,
        admits: Collection[Role] = (Role.CLIENT, Role.WORKER, Role.EGRESS),
        check: Check = judged_by_caller,
        deadline: float = INTRODUCTION_SECONDS,
        max_pending: int = MAX_PENDING,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._end = End.prepare(
            role=role,
            keys=keys,
            tee=tee,
            signer=None,
            admits=admits,
            verifier=verifier,
            job_digest=job_digest,
            check=check,
            clock=clock,
        )
        self._deadline = deadline
        self._max_pending = max_pending
        self._pending: OrderedDict[int, socket.socket] = OrderedDict()
        self._pending_lock = threading.Lock()
        # Two lines, so that no number of refused strangers can push out a peer that was verified.
        self._channels: deque[AttestedChannel] = deque()
        self._refusals: deque[StrongroomError] = deque(maxlen=4 * max_pending)
        self._arrived = threading.Condition()
        self._closed = False
        try:
            self._socket = socket.create_server(address, backlog=128)
        except OSError as error:
            raise TransportError(
                f"cannot listen at {_name(address)}: {error.strerror}",
                hint="choose another port, or 0 for any free one",
            ) from error
        host, port = self._socket.getsockname()[:2]
        self.address: Address = (host, port)
        threading.Thread(target=self._listen, name=f"attested-listener-{port}", daemon=True).start()

    @property
    def closed(self) -> bool:
        """Say whether :meth:`close` was called."""
        return self._closed

    def accept(self, *, deadline: float | None = None) -> AttestedChannel:
        """Return the next channel, or raise what was wrong with the next peer; a refused peer is already gone.

        Waits until the listener is closed (ListenerClosedError), or at most ``deadline`` seconds (DeadlineError).
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._closed or self._channels or self._refusals, deadline):
                raise DeadlineError(f"nobody came within {deadline:g} s")
            if self._closed:
                raise ListenerClosedError("the listener is closed")
            if self._channels:
                return self._channels.popleft()
            raise self._refusals.popleft()

    def close(self) -> None:
        """Stop listening and drop whoever is not accepted yet; channels already handed out stay open."""
        with self._arrived:
            self._closed = True
            waiting = list(self._channels)
            self._channels.clear()
            self._arrived.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._socket.close()
        with self._pending_lock:
            for plain in self._pending.values():
                _hang_up(plain)
        for channel in waiting:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        number = 0
        while not self.closed:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                if not self.closed:
                    time.sleep(0.05)  # out of descriptors: let some pending introductions end
                continue
            number += 1
            with self._pending_lock:
                if len(self._pending) >= self._max_pending:
                    _, oldest = self._pending.popitem(last=False)
                    _hang_up(oldest)
                self._pending[number] = plain
            threading.Thread(target=self._introduce, args=(number, plain), daemon=True).start()

    def _introduce(self, number: int, plain: socket.socket) -> None:
        outcome: AttestedChannel | StrongroomError | None
        try:
            outcome = _introduce(self._end, plain, server=True, deadline=Deadline(self._deadline))
        except StrongroomError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  a stranger must not end the listener, whatever it sent
            _hang_up(plain)
            outcome = ProtocolError(f"an introduction failed: {type(error).__name__}")
        finally:
            with self._pending_lock:
                self._pending.pop(number, None)
        with self._arrived:
            if isinstance(outcome, StrongroomError):
                self._refusals.append(outcome)
            elif not self._closed and len(self._channels) < MAX_WAITING:
                self._channels.append(outcome)
                outcome = None
            self._arrived.notify_all()
        if isinstance(outcome, AttestedChannel):
            outcome.close()


def _introduce(end: End, plain: socket.socket, *, server: bool, deadline: Deadline) -> AttestedChannel:
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


def _hang_up(plain: socket.socket) -> None:
    """Wake and end whoever waits on a socket; its own thread closes it."""
    with contextlib.suppress(OSError):
        plain.shutdown(socket.SHUT_RDWR)


def _name(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


__all__ = [
    "INTRODUCTION_SECONDS",
    "MAX_INTRODUCTION_BYTES",
    "MAX_PENDING",
    "MAX_WAITING",
    "MESSAGE_SECONDS",
    "Address",
    "AttestedChannel",
    "Listener",
    "ListenerClosedError",
    "PeerRefusedError",
    "connect",
    "judged_by_caller",
]
