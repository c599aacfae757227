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
from strongroom.attestation.secure_line import DeadlineError
from strongroom.errors import RefusedError, StrongroomError, TransportError
from strongroom.workload.ending import describe_defect
from strongroom.workload.handover import Admission, BrokerAddress, ClusterJoin
from strongroom.workload.pulse import ALIVE, SILENCE_SECONDS, WORKER_SILENCE_SECONDS, Pulse

_MOST_SAID = 16  # answers nobody waited for; an attested member has no reason to send more
_LEAVE_SECONDS = 15.0  # for a worker that was told to stop
_MAX_NAME = 253  # a pod's


class MemberRefusedError(RefusedError):
    """A process was not admitted to the job; its exit code is that of evidence that is not good enough."""

    exit_code = 4


class MemberLostError(TransportError):
    """An admitted process died, or fell silent."""


@dataclass(slots=True)
class Member:
    """One admitted process of the job and the channel to it; ``said`` holds its answers, then None when it is gone.

    ``name`` is what the host calls its process, which decides nothing. ``leaving``: it ends in order, or was told to.
    """

    number: int
    role: Role
    channel: AttestedChannel
    joined: bool = False
    alive: bool = True
    leaving: bool = False
    name: str = ""
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
    through the broker and returns the signed admission, or raises EvidenceError with every reason. ``on_count`` hears
    how many workers stay and how many are leaving; ``on_silent`` gets the host's name for a process that fell silent,
    or does not leave, and would never end by itself.
    """

    def __init__(
        self,
        *,
        admit: Callable[[AttestedChannel, Role], str],
        statement: str,
        broker: BrokerAddress,
        checkpoint: Callable[[], str],
        on_event: Callable[..., None],
        on_count: Callable[[int, int], None] = lambda _staying, _leaving: None,
        on_silent: Callable[[Role, str], None] = lambda _role, _name: None,
    ) -> None:
        self._on_count = on_count
        self._on_silent = on_silent
        self._on_gone: Callable[[int], None] = lambda _number: None
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
            if not member.leaving:
                self._on_event("member-lost", role=str(role), member=member.number, reason=trouble.message)
            if isinstance(error, DeadlineError):
                self._on_silent(role, member.name)
        finally:
            self._part(member)

    def open_cluster(
        self, join: Callable[[int], ClusterJoin], *, on_gone: Callable[[int], None] = lambda _number: None
    ) -> None:
        """Let admitted workers, present and future, join the cluster that ``join`` describes.

        ``on_gone`` hears the number of every worker that joined and is there no longer.
        """
        with self._changed:
            self._cluster = join
            self._on_gone = on_gone
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

    def note_leaving(self, number: int) -> None:
        """Take in that worker ``number`` is ending in order, and may have a successor."""
        with self._changed:
            for member in self._members:
                if member.number == number and member.role is Role.WORKER:
                    member.leaving = True
        self._count()

    def dismiss(self, number: int) -> None:
        """Tell worker ``number`` to stop; the host ends it if it does not."""
        self.note_leaving(number)
        with self._changed:
            found = [one for one in self._members if one.number == number and one.role is Role.WORKER and one.alive]
        for member in found:
            with contextlib.suppress(StrongroomError):  # it left; its own thread reports that
                member.channel.send({"type": "stop", "reasons": []})
            late = threading.Timer(_LEAVE_SECONDS, self._give_up, (member,))
            late.daemon = True
            late.start()

    def close(self, reasons: Sequence[str] = ()) -> None:
        """Tell every member to stop, and why."""
        self._pulse.stop()
        self._tell_all({"type": "stop", "reasons": list(reasons)})

    def _give_up(self, member: Member) -> None:
        if member.alive:
            member.channel.close()
            self._on_silent(member.role, member.name)

    def _part(self, member: Member) -> None:
        """Note that a member is gone, and tell everybody concerned."""
        with self._changed:
            member.alive = False
            self._changed.notify_all()
            on_gone = self._on_gone if member.joined else None
        member.channel.close()
        member.said.put(None)
        if member.role is Role.WORKER:
            self._count()
            if on_gone is not None:
                on_gone(member.number)

    def _count(self) -> None:
        with self._changed:
            workers = [member for member in self._members if member.role is Role.WORKER and member.alive]
            leaving = sum(member.leaving for member in workers)
            self._on_count(len(workers) - leaving, leaving)

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
        if member.role is Role.WORKER:
            self._count()

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
        silence = WORKER_SILENCE_SECONDS if member.role is Role.WORKER else SILENCE_SECONDS
        while True:
            said = member.channel.receive(deadline=silence)
            if said.get("type") == "placed":
                member.name = str(said.get("name", ""))[:_MAX_NAME]
            elif said.get("type") == "keys-released":
                self._on_event("worker-keys", member=member.number, seconds=float(said.get("seconds", 0.0)))
            elif said != ALIVE:
                if member.said.qsize() >= _MOST_SAID:
                    raise TransportError(f"the {member.role} talks without being asked")
                member.said.put(said)
