"""Connect one worker with every other worker of its round, and with nobody else (spec/3-job.md §10).

A peer must prove by evidence, on this very connection, that it is a worker of this job, and hold the keys that the
driver's roster names for its rank: the keys of a worker that the driver admitted. No secret passes through the driver.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from strongroom.attestation.appraisal import Verifier
from strongroom.attestation.channel import AttestedChannel, connect
from strongroom.attestation.listener import Listener
from strongroom.attestation.record_line import RecordLine
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import DeadlineError
from strongroom.attestation.tee import Tee
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import same
from strongroom.errors import EvidenceError, StrongroomError, TransportError
from strongroom.workload.handover import MessageError, expect
from strongroom.workload.mesh.links import IncomingLink, Key, OutgoingLink, PeerLostError, Sent, lost
from strongroom.workload.mesh.roster import MOST_WORKERS, Roster

T = TypeVar("T")

MEETING_SECONDS = 60.0
_HELLO_SECONDS = 10.0


class ImpostorError(EvidenceError):
    """A worker of this job stands where the driver said that another one is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a worker proves itself by, and judges others by."""

    keys: WorkloadKeys
    tee: Tee
    verifier: Verifier
    job_digest: bytes


class MeshDoor:
    """Where other workers come in, for as long as this worker lives; who comes early waits for its round."""

    def __init__(self, host: str, *, proof: Proof) -> None:
        self._proof = proof
        self._listener = Listener(
            (host, 0),
            keys=proof.keys,
            role=Role.WORKER,
            tee=proof.tee,
            verifier=proof.verifier,
            job_digest=proof.job_digest,
            admits=(Role.WORKER,),
            max_pending=2 * MOST_WORKERS,
        )
        self.address = self._listener.address
        self._arrived: dict[tuple[int, int, bytes], AttestedChannel] = {}
        self._changed = threading.Condition()
        self._round = 0
        self._closed = False
        threading.Thread(target=self._accept, name="mesh-door", daemon=True).start()

    def open(self, roster: Roster, *, deadline: float = MEETING_SECONDS) -> Mesh:
        """Return the mesh of ``roster`` when every worker in it is connected; raise PeerLostError if one is not."""
        self._forget_before(roster.round)
        channels: dict[int, AttestedChannel] = {}
        lines: dict[int, RecordLine] = {}
        until = time.monotonic() + deadline
        try:
            for rank in range(roster.rank):
                channels[rank] = self._call(roster, rank, deadline)
            for rank in range(roster.rank + 1, roster.size):
                channels[rank] = self._await(roster, rank, until, deadline)
                _say_hello(channels[rank], roster, rank)
            for rank in range(roster.rank):
                self._hear_welcome(channels[rank], roster, rank, until, deadline)
            for rank, channel in channels.items():
                ranks = (max(rank, roster.rank), min(rank, roster.rank))  # whoever called first
                parts = (number.to_bytes(8, "little") for number in (roster.round, *ranks))
                lines[rank] = channel.into_records("mesh", *parts)
        except BaseException:
            for line in lines.values():
                line.close()
            for channel in channels.values():
                channel.close()
            raise
        return Mesh(
            rank=roster.rank,
            size=roster.size,
            outgoing={rank: OutgoingLink(line, rank=rank) for rank, line in lines.items()},
            incoming={rank: IncomingLink(line, rank=rank) for rank, line in lines.items()},
        )

    def close(self) -> None:
        """Let nobody in any more; safe to call twice."""
        self._closed = True
        self._listener.close()
        self._forget_before(1 << 62)

    def _call(self, roster: Roster, rank: int, deadline: float) -> AttestedChannel:
        """Return a channel to the worker of ``rank``, after it has proved to be that worker."""
        place = roster.places[rank]
        try:
            channel = connect(
                (place.host, place.port),
                keys=self._proof.keys,
                role=Role.WORKER,
                expected_role=Role.WORKER,
                tee=self._proof.tee,
                verifier=self._proof.verifier,
                job_digest=self._proof.job_digest,
                deadline=deadline,
            )
        except EvidenceError:
            raise
        except StrongroomError as error:
            raise PeerLostError(f"worker {rank} cannot be reached: {error.message}", hint=error.hint) from error
        if not same(channel.peer_keys.digest, bytes.fromhex(place.keys)):
            channel.close()
            raise ImpostorError(
                f"at the address of worker {rank} stands a worker that the driver did not admit", step="roster"
            )
        _say_hello(channel, roster, rank)
        return channel

    def _hear_welcome(self, channel: AttestedChannel, roster: Roster, rank: int, until: float, deadline: float) -> None:
        """Wait until the worker of ``rank``, which was called, has come to this very round."""
        try:
            said = channel.receive(deadline=max(0.001, until - time.monotonic()))
        except DeadlineError as error:
            raise PeerLostError(f"worker {rank} did not come within {deadline:g} s") from error
        except TransportError as error:
            raise lost(rank, error) from error
        if said != _hello(roster.round, rank):
            raise MessageError(f"worker {rank} is in another round, or of another rank")

    def _await(self, roster: Roster, rank: int, until: float, deadline: float) -> AttestedChannel:
        """Return the channel on which the worker of ``rank`` came; others may claim the rank, but not its keys."""
        key = (roster.round, rank, bytes.fromhex(roster.places[rank].keys))
        left = max(0.0, until - time.monotonic())
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._arrived or self._closed, left):
                raise PeerLostError(f"worker {rank} did not come within {deadline:g} s")
            if self._closed:
                raise PeerLostError("the mesh was closed")
            return self._arrived.pop(key)

    def _accept(self) -> None:
        while True:
            try:
                channel = self._listener.accept()
            except StrongroomError:
                if self._listener.closed:
                    return
                continue  # a stranger, which was refused
            threading.Thread(target=self._receive, args=(channel,), name="mesh-hello", daemon=True).start()

    def _receive(self, channel: AttestedChannel) -> None:
        """Let a verified peer wait under the round and rank that it names, and its own keys."""
        try:
            hello = expect(channel.receive(deadline=_HELLO_SECONDS), "round", "rank", type_="mesh")
            key = (int(hello["round"]), int(hello["rank"]), channel.peer_keys.digest)
        except (StrongroomError, TypeError, ValueError):
            channel.close()
            return
        with self._changed:
            welcome = not self._closed and key[0] >= self._round and len(self._arrived) < 2 * MOST_WORKERS
            before = self._arrived.pop(key, None)
            if welcome:
                self._arrived[key] = channel
            self._changed.notify_all()
        for left in (before, None if welcome else channel):
            if left is not None:
                left.close()

    def _forget_before(self, number: int) -> None:
        with self._changed:
            self._round = max(self._round, number)
            stale = [key for key in self._arrived if key[0] < self._round]
            channels = [self._arrived.pop(key) for key in stale]
            self._changed.notify_all()
        for channel in channels:
            channel.close()


class Mesh:
    """One round's links, from this worker to every other and back."""

    def __init__(
        self, *, rank: int, size: int, outgoing: dict[int, OutgoingLink], incoming: dict[int, IncomingLink]
    ) -> None:
        self.rank = rank
        self.size = size
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self.trouble: StrongroomError | None = None

    @classmethod
    def alone(cls) -> Mesh:
        """Return the mesh of one worker, which has no link."""
        return cls(rank=0, size=1, outgoing={}, incoming={})

    @property
    def broken(self) -> bool:
        """Return whether a worker was lost, or the mesh was closed."""
        gone = [link.broken for link in self._outgoing.values()] + [link.broken for link in self._incoming.values()]
        return self._closed or any(gone)

    def post(self, to: int, key: Key, data: memoryview, *, at_once: bool = False) -> Sent:
        """Send ``data`` to the worker of rank ``to``; the buffer is in use until the answer's ``wait`` returns."""
        return self._outgoing[to].post(key, data, at_once=at_once)

    def send(self, to: int, key: Key, data: memoryview) -> None:
        """Send ``data`` to the worker of rank ``to`` in this thread, which must not be one that others wait for."""
        self._outgoing[to].send(key, data)

    def receive(self, source: int, key: Key, into: memoryview, *, deadline: float, least: int | None = None) -> int:
        """Fill ``into``, or at least ``least`` bytes of it, with the message called ``key`` from rank ``source``."""
        return self._incoming[source].receive(key, into, deadline=deadline, least=least)

    def noting(self, call: Callable[[], T]) -> Callable[[], T]:
        """Return ``call``, of which the first error of ours is kept as :attr:`trouble`: libraries hide its kind."""

        def noted() -> T:
            try:
                return call()
            except StrongroomError as error:
                self.trouble = self.trouble or error
                raise

        return noted

    def close(self) -> None:
        """End every link: whoever waits on one, here or at a peer, gets PeerLostError; safe to call twice."""
        self._closed = True
        for outgoing in self._outgoing.values():
            outgoing.close()
        for incoming in self._incoming.values():
            incoming.close()


def _say_hello(channel: AttestedChannel, roster: Roster, rank: int) -> None:
    """Say who we are to the worker of ``rank``, before both leave TLS for records."""
    try:
        channel.send(_hello(roster.round, roster.rank))
    except TransportError as error:
        channel.close()
        raise lost(rank, error) from error


def _hello(number: int, rank: int) -> dict[str, object]:
    return {"type": "mesh", "round": number, "rank": rank}
