"""Admit workers and egress to a job: appraise each like anyone else, write the decision in the ledger, then let it in.

What an admitted worker receives from the driver is the cluster secret and nothing else; data keys it must get from the
broker itself, with the admission as its letter of introduction (spec/4-release.md §7).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from strongroom.attestation.channel import AttestedChannel
from strongroom.attestation.roles import Role
from strongroom.errors import RefusedError, StrongroomError
from strongroom.workload.handover import Admission, BrokerAddress, ClusterJoin

_MEMBER_SILENCE_SECONDS = 24 * 3600.0


class MemberRefusedError(RefusedError):
    """A process was not admitted to the job; its exit code is that of evidence that is not good enough."""

    exit_code = 4


@dataclass(slots=True)
class Member:
    """One admitted process of the job and the channel to it."""

    number: int
    role: Role
    channel: AttestedChannel
    joined: bool = False
    alive: bool = True


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
        self._refusals: list[StrongroomError] = []
        self._changed = threading.Condition()
        self._cluster: Callable[[int], ClusterJoin] | None = None
        self._numbered = 0

    def welcome(self, channel: AttestedChannel, role: Role) -> None:
        """Admit or refuse the attested peer behind ``channel`` and serve it until it leaves; runs in its own thread."""
        try:
            admission = self._admit(channel, role)
        except StrongroomError as error:
            with self._changed:
                self._refusals.append(error)
                self._changed.notify_all()
            channel.send({"type": "refused", "message": error.message, "hint": error.hint})
            channel.close()
            return
        with self._changed:
            self._numbered += 1
            member = Member(number=self._numbered, role=role, channel=channel)
        try:
            letter = Admission(
                admission=admission,
                statement=self._statement,
                broker=self._broker,
                checkpoint=self._checkpoint(),
                member=member.number,
            )
            channel.send(letter.encode())
            with self._changed:
                self._members.append(member)  # only now: whoever waits for a member may talk to it at once
                self._changed.notify_all()
            self._serve(member)
        except StrongroomError as error:
            self._on_event("member-lost", role=str(role), member=member.number, reason=error.message)
        finally:
            with self._changed:
                member.alive = False
                self._changed.notify_all()
            channel.close()

    def open_cluster(self, join: Callable[[int], ClusterJoin]) -> None:
        """Let admitted workers, present and future, join the cluster that ``join`` describes."""
        with self._changed:
            self._cluster = join
            waiting = [member for member in self._members if member.role is Role.WORKER and member.alive]
        for member in waiting:
            self._invite(member)

    def wait_for(self, role: Role, count: int, *, deadline: float) -> list[Member]:
        """Return ``count`` living members of ``role``; raise the refusal if one was refused and none is left to hope
        for.

        Raises EvidenceError if a process of this role was refused, TimeoutError-like StrongroomError after
        ``deadline`` s.
        """
        until = time.monotonic() + deadline
        with self._changed:
            while True:
                found = [member for member in self._members if member.role is role and member.alive]
                if len(found) >= count:
                    return found[:count]
                if self._refusals:
                    raise self._refusals[0]
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

    def tell_all(self, message: dict[str, Any]) -> None:
        """Send ``message`` to every living member; one that is gone is not an error."""
        with self._changed:
            members = [member for member in self._members if member.alive]
        for member in members:
            try:
                member.channel.send(message)
            except StrongroomError:
                member.alive = False

    def _invite(self, member: Member) -> None:
        with self._changed:
            if member.joined or self._cluster is None:
                return
            member.joined = True
            cluster = self._cluster
        member.channel.send(cluster(member.number).encode())

    def _serve(self, member: Member) -> None:
        if member.role is not Role.WORKER:
            with self._changed:
                while member.alive:
                    self._changed.wait(1.0)
            return
        self._invite(member)
        while True:
            said = member.channel.receive(deadline=_MEMBER_SILENCE_SECONDS)
            if said.get("type") == "keys-released":
                self._on_event("worker-keys", member=member.number, seconds=float(said.get("seconds", 0.0)))
