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
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from strongroom.attestation.appraisal import AttestationResult, Verifier
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
from strongroom.attestation.secure_line import Deadline, DeadlineError, LineClosedError, ProtocolError, SecureLine
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import PublicKeys, WorkloadKeys
from strongroom.errors import EvidenceError, StrongroomError, TransportError
from strongroom.statements import PartyId, SigningKey

INTRODUCTION_SECONDS = 10.0
MESSAGE_SECONDS = 60.0
MAX_PENDING = 32
MAX_WAITING = 256
MAX_INTRODUCTION_BYTES = 2 << 20  # evidence has at most 64 KiB of quote and 1 MiB of event log, in base64

Address = tuple[str, int]
Clock = Callable[[], datetime]
Check = Callable[[AttestationResult], None]


class PeerRefusedError(EvidenceError):
    """The other end does not trust us; it says only what kind of thing failed."""


class ListenerClosedError(TransportError):
    """The listener was closed."""


def judged_by_caller(result: AttestationResult) -> None:
    """Leave the ruling on a verified result to whoever gets the channel, before it sends anything."""
    del result


class AttestedChannel:
    """A connection to a verified peer; one thread may send while another receives."""

    def __init__(self, line: SecureLine, peer: Peer, *, seconds: float, attested_at: datetime) -> None:
        self._line = line
        self._peer = peer
        self.seconds = seconds
        self.attested_at = attested_at

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

    def send(self, message: dict[str, Any], *, deadline: float = MESSAGE_SECONDS) -> None:
        """Send one JSON object within ``deadline`` seconds; a failed send ends the channel."""
        try:
            self._line.send(message, Deadline(deadline))
        except DeadlineError:
            self.close()  # half a message is on the wire
            raise

    def receive(self, *, deadline: float = MESSAGE_SECONDS) -> dict[str, Any]:
        """Return the next JSON object; raise DeadlineError after ``deadline`` seconds, and the channel stays usable."""
        return self._line.receive(Deadline(deadline))

    def write(self, data: bytes, *, deadline: float = MESSAGE_SECONDS) -> None:
        """Send bytes of a protocol that both ends agreed to speak from here on, instead of messages."""
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
    end = _End(
        credentials=Credentials(role=role, keys=keys, tee=tee, signer=signer),
        admits=frozenset({expected_role}),
        verifier=verifier,
        job_digest=check_job_digest(job_digest),
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
    return end.introduce(plain, server=False, deadline=limit)


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
        self._end = _End(
            credentials=Credentials(role=role, keys=keys, tee=tee, signer=None),
            admits=frozenset(admits),
            verifier=verifier,
            job_digest=check_job_digest(job_digest),
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
            outcome = self._end.introduce(plain, server=True, deadline=Deadline(self._deadline))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One end's side of every introduction: how it proves itself, and whom it believes."""

    credentials: Credentials
    admits: frozenset[Role]
    verifier: Verifier
    job_digest: bytes
    check: Check
    clock: Clock

    def introduce(self, plain: socket.socket, *, server: bool, deadline: Deadline) -> AttestedChannel:
        """Return the channel, or close the connection and raise what failed."""
        started = time.monotonic()
        try:
            line = SecureLine(plain, keys=self.credentials.keys, server=server)
        except OSError as error:
            plain.close()
            raise LineClosedError("the other side closed the connection") from error
        try:
            peer, now = self._meet(line, server=server, deadline=deadline)
        except StrongroomError as error:
            if isinstance(error, EvidenceError) and not isinstance(error, PeerRefusedError):
                with contextlib.suppress(StrongroomError):
                    line.send({"refused": error.kind}, Deadline(min(1.0, deadline.left)))
            line.close()
            raise
        except BaseException:
            line.close()
            raise
        return AttestedChannel(line, peer, seconds=time.monotonic() - started, attested_at=now)

    def _meet(self, line: SecureLine, *, server: bool, deadline: Deadline) -> tuple[Peer, datetime]:
        line.shake_hands(deadline)
        own = Greeting.fresh(role=self.credentials.role, keys=self.credentials.keys.public)
        line.send(own.to_json(), deadline)
        meeting = Meeting.arrange(
            own=own,
            peer=Greeting.parse(self._hear(line, deadline)),
            peer_spki=line.peer_spki,
            exporter=line.exporter,
            job_digest=self.job_digest,
        )
        if meeting.peer.role not in self.admits:
            raise WrongRoleError(
                f"the other end is a {meeting.peer.role.value}, expected {' or '.join(sorted(self.admits))}",
                step="role",
            )
        # The end that came asking proves itself first, so that strangers cannot make a listener produce quotes.
        if server:
            now, peer = self._verify(line, meeting, deadline)
            line.send(self.credentials.prove(meeting), deadline)
            line.send({"ok": True}, deadline)
            self._hear_ok(line, deadline)
        else:
            line.send(self.credentials.prove(meeting), deadline)
            now, peer = self._verify(line, meeting, deadline)
            line.send({"ok": True}, deadline)
            self._hear_ok(line, deadline)
        return peer, now

    def _verify(self, line: SecureLine, meeting: Meeting, deadline: Deadline) -> tuple[datetime, Peer]:
        proof = self._hear(line, deadline)
        now = self.clock()
        peer = verify_proof(proof, meeting, verifier=self.verifier, now=now)
        if peer.result is not None:
            self.check(peer.result)
        return now, peer

    def _hear(self, line: SecureLine, deadline: Deadline) -> dict[str, Any]:
        message = line.receive(deadline, most=MAX_INTRODUCTION_BYTES)
        if set(message) == {"refused"}:
            raise PeerRefusedError(
                f"the other end refused us: {str(message['refused'])[:60]}",
                step="peer",
                hint="its own log says why; most often another job, measurement or trust anchor was expected",
            )
        return message

    def _hear_ok(self, line: SecureLine, deadline: Deadline) -> None:
        message = self._hear(line, deadline)
        if message != {"ok": True}:
            raise ProtocolError("expected ok after the proofs")


def _hang_up(plain: socket.socket) -> None:
    """Wake and end whoever waits on a socket; its own thread closes it."""
    with contextlib.suppress(OSError):
        plain.shutdown(socket.SHUT_RDWR)


def _name(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
