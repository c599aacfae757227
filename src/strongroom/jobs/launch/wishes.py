"""Keep the count of what a driver wants alive: how many of each role, what to start, what to end (spec/3-job.md §7).

Pure: it is told what happened and when, and answers what to do; it never starts or ends a process.
"""

from __future__ import annotations

from collections.abc import Mapping

MOST_MEMBERS = 10_000
SHORT_LIFE_SECONDS = 10.0
_SETTLE_SECONDS = 1.0
_SURPLUS_SECONDS = 30.0


class Wishes:
    """What is wanted of each role; the driver's word replaces the one before it, up or down.

    ``restarts`` bounds how many members may be replaced because they failed. One that ended well is replaced without
    counting, as long as it lived for ten seconds; so a process that leaves again and again at once is a fault too.
    """

    def __init__(self, *, restarts: int) -> None:
        self._restarts = restarts
        self._counts: dict[str, int] = {}
        self._spoken: set[str] = set()
        self._settled: dict[str, float] = {}
        self._surplus_since: dict[str, float] = {}

    def foresee(self, role: str, count: int) -> None:
        """Want ``count`` of ``role`` ahead of the driver's own wish; nothing once the driver has said its own."""
        if role not in self._spoken:
            self._counts[role] = max(count, self._counts.get(role, 0))

    def take(self, role: str, count: int) -> None:
        """Take the driver's word: it wants ``count`` of ``role`` alive, from now on."""
        self._spoken.add(role)
        self._counts[role] = max(0, min(count, MOST_MEMBERS))

    def clear(self) -> None:
        """Want nobody any more."""
        self._spoken |= set(self._counts)
        self._counts.clear()

    def end(self, role: str, *, well: bool, lived: float, now: float) -> bool:
        """Note that a member ended after ``lived`` seconds; return whether it may be replaced.

        If it may not, one less is wanted. A driver that let a member go says so a moment later, so a member that
        ended well is not replaced at once.
        """
        if well and lived >= SHORT_LIFE_SECONDS:
            self._settled[role] = now + _SETTLE_SECONDS
            return True
        if self._counts.get(role, 0) == 0:
            return True  # nobody misses it
        if self._restarts > 0:
            self._restarts -= 1
            return True
        self._counts[role] = max(0, self._counts.get(role, 0) - 1)
        return False

    def postpone(self, role: str, *, until: float) -> None:
        """Start nobody of ``role`` before ``until``."""
        self._settled[role] = until

    def missing(self, have: Mapping[str, int], *, now: float) -> list[str]:
        """Return the roles to start a member of, each as often as one is missing."""
        return [
            role
            for role, count in self._counts.items()
            if now >= self._settled.get(role, now)
            for _ in range(count - have.get(role, 0))
        ]

    def surplus(self, have: Mapping[str, int], *, now: float) -> dict[str, int]:
        """Return how many members of each role to end: those beyond what the driver wants for half a minute.

        The driver chooses who leaves and tells it so itself; what is left over after that never came to it.
        """
        found = {}
        for role in self._spoken:
            over = have.get(role, 0) - self._counts.get(role, 0)
            if over <= 0 or not self._counts:  # when all is over, the members are told by the driver
                self._surplus_since.pop(role, None)
            elif now - self._surplus_since.setdefault(role, now) >= _SURPLUS_SECONDS:
                found[role] = over
        return found

    def excess(self, have: Mapping[str, int]) -> dict[str, int]:
        """Return how many members of each role are beyond what the driver wants at this moment."""
        over = {role: have.get(role, 0) - self._counts.get(role, 0) for role in self._spoken if self._counts}
        return {role: count for role, count in over.items() if count > 0}
