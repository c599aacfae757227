"""Admit workers and egress to a job: appraise each like anyone else, write the decision in the ledger, then let it in.

What an admitted worker receives from the driver is the cluster secret and nothing else; data keys it must get from the
broker itself, with the admission as its letter of introduction (spec/4-release.md §7).
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from strongroom.attestation.channel import AttestedChannel
from strongroom.attestation.roles import Role
from strongroom.errors import RefusedError, StrongroomError, TransportError
from strongroom.workload.ending import describe_defect
from strongroom.workload.handover import Admission, BrokerAddress, ClusterJoin
from strongroom.workload.pulse import ALIVE, SILENCE_SECONDS, Pulse

_MOST_SAID = 16  # answers nobody waited for; an attested member has no reason to send more


class MemberRefusedError(RefusedError):
    """A process was not admitted to the job; its exit code is that of evidence that is not good enough."""

    exit_code = 4


class MemberLostError(TransportError):
    """An admitted process died, or fell silent."""


@dataclass(slots=True)
class Member:
    """One admitted process of the job and the channel to it; ``said`` holds its answers, then None when it is gone."""

    number: int
    role: Role
    channel: AttestedChannel
    joined: bool = False
    alive: bool = True
    said: queue.Queue[dict[str, Any] | None] = field(default_factory=queue.Queue)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send ``message`` and return the answer, however long it takes; raise MemberLostError if none can come."""
        try:
            self.channel.send(message)
        except StrongroomError:
            self.channel.close()  # whoever serves it then says so below
        answer = self.said.get()
        if answer is None:
            raise MemberLostError(
                f"the {self.role} died, or said nothing for {SILENCE_SECONDS:.0f} s",
                hint="submit the job again; what the host saw of its end stands with the job's processes",
            )
        return answer


class Members:
    """The processes that were admitted to one job, and those that were not.

    ``admit`` is given by the driver: it rules on a peer's attestation result, writes the ruling in the ledger
    through the broker and returns the signed admission, or raises EvidenceError with every reason.
    """

    def __init__(
        self,
        *,
        admit: Callable[[AttestedChannel, Role], str],
        statement: str,
        broker: BrokerAddress,
        checkpoint: Callable[[], str],
        on_event: Callable[..., None],
    ) -> None:
        self._admit = admit
        self._statement = statement
        self._broker = broker
        self._checkpoint = checkpoint
        self._on_event = on_event
        self._members: list[Member] = []
        self._refusals: dict[Role, StrongroomError] = {}
        self._changed = threading.Condition()
        self._cluster: Callable[[int], ClusterJoin] | None = None
        self._numbered = 0
        self._pulse = Pulse(self._beat)
        self._pulse.start()

    def welcome(self, channel: AttestedChannel, role: Role) -> None:
        """Admit or refuse the attested peer behind ``channel`` and serve it until it leaves; runs in its own thread."""
        try:
            admission = self._admit(channel, role)
        except Exception as error:  # noqa: BLE001  whatever the reason, it is not admitted
            refusal = error if isinstance(error, StrongroomError) else describe_defect(error)
            with self._changed:
                self._refusals.setdefault(role, refusal)
                self._changed.notify_all()
            with contextlib.suppress(StrongroomError):
                channel.send({"type": "refused", "message": refusal.message, "hint": refusal.hint})
            channel.close()
            return
        with self._changed:
            self._numbered += 1
            member = Member(number=self._numbered, role=role, channel=channel)
        try:
            self._introduce(member, admission)
            self._serve(member)
        except Exception as error:  # noqa: BLE001  one member's trouble is not the job's
            trouble = error if isinstance(error, StrongroomError) else describe_defect(error)
            self._on_event("member-lost", role=str(role), member=member.number, reason=trouble.message)
        finally:
            with self._changed:
                member.alive = False
                self._changed.notify_all()
            channel.close()
            member.said.put(None)

    def open_cluster(self, join: Callable[[int], ClusterJoin]) -> None:
        """Let admitted workers, present and future, join the cluster that ``join`` describes."""
        with self._changed:
            self._cluster = join
            waiting = [member for member in self._members if member.role is Role.WORKER and member.alive]
        for member in waiting:
            with contextlib.suppress(StrongroomError):  # it left; its own thread reports that
                self._invite(member)

    def wait_for(self, role: Role, count: int, *, deadline: float) -> list[Member]:
        """Return ``count`` living members of ``role``.

        Raises the refusal if a process of this role was refused, StrongroomError after ``deadline`` seconds.
        """
        until = time.monotonic() + deadline
        with self._changed:
            while True:
                found = [member for member in self._members if member.role is role and member.alive]
                if len(found) >= count:
                    return found[:count]
                if role in self._refusals:
                    raise self._refusals[role]
                left = until - time.monotonic()
                if left <= 0:
                    raise StrongroomError(
                        f"{len(found)} of {count} {role} processes came within {deadline:.0f} s",
                        hint="does the launcher still run, and can it start processes?",
                    )
                self._changed.wait(min(left, 1.0))

    def alive(self, role: Role) -> int:
        """Return how many members of ``role`` are there."""
        with self._changed:
            return sum(member.alive for member in self._members if member.role is role)

    def close(self, reasons: Sequence[str] = ()) -> None:
        """Tell every member to stop, and why."""
        self._pulse.stop()
        self._tell_all({"type": "stop", "reasons": list(reasons)})

    def _beat(self) -> bool:
        self._tell_all(ALIVE)
        return True

    def _tell_all(self, message: dict[str, Any]) -> None:
        """Send ``message`` to every living member; one that is gone is not an error."""
        with self._changed:
            members = [member for member in self._members if member.alive]
        for member in members:
            with contextlib.suppress(StrongroomError):
                member.channel.send(message)

    def _introduce(self, member: Member, admission: str) -> None:
        letter = Admission(
            admission=admission,
            statement=self._statement,
            broker=self._broker,
            checkpoint=self._checkpoint(),
            member=member.number,
        )
        member.channel.send(letter.encode())
        with self._changed:
            self._members.append(member)  # only now: whoever waits for a member may talk to it at once
            self._changed.notify_all()

    def _invite(self, member: Member) -> None:
        with self._changed:
            if member.joined or self._cluster is None:
                return
            member.joined = True
            cluster = self._cluster
        member.channel.send(cluster(member.number).encode())

    def _serve(self, member: Member) -> None:
        """Take in what a member says until it leaves or falls silent."""
        if member.role is Role.WORKER:
            self._invite(member)
        while True:
            said = member.channel.receive(deadline=SILENCE_SECONDS)
            if said.get("type") == "keys-released":
                self._on_event("worker-keys", member=member.number, seconds=float(said.get("seconds", 0.0)))
            elif said != ALIVE:
                if member.said.qsize() >= _MOST_SAID:
                    raise TransportError(f"the {member.role} talks without being asked")
                member.said.put(said)
