"""Say to the host how many workers the job wants alive, up and down, within what its analyst signed (spec/3-job.md §7).

Spark asks for more or fewer, workers come, leave and are lost; the host hears one number, whenever it changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


def count_wanted(*, asked: int, most: int, staying: int, leaving: int) -> int:
    """Return how many workers the host should keep alive.

    Who is there stays until Spark lets it go, so the count never falls by itself below those that stay. Who is leaving
    in order is not waited for: its successor may start, and take over its blocks.
    """
    return min(max(asked, staying), most) + leaving


class Staffing:
    """The one count of workers; ``say`` tells it to the host."""

    def __init__(self, *, workers: int, most: int, say: Callable[[int], None]) -> None:
        self._most = most
        self._say = say
        self._asked = workers
        self._staying = self._leaving = 0
        self._said = -1
        self._over = False
        self._lock = threading.Lock()
        self._tell()

    def ask(self, count: int) -> None:
        """Take in how many executors Spark wants; 0 once it has stopped."""
        with self._lock:
            self._asked = max(0, count)
            self._tell()

    def note(self, *, staying: int, leaving: int) -> None:
        """Take in how many admitted workers stay, and how many are leaving in order."""
        with self._lock:
            self._staying, self._leaving = staying, leaving
            self._tell()

    def end(self) -> None:
        """Want nobody any more."""
        with self._lock:
            self._over = True
            self._tell()

    def _tell(self) -> None:
        counts = {"asked": self._asked, "staying": self._staying, "leaving": self._leaving}
        wanted = 0 if self._over else count_wanted(most=self._most, **counts)
        if wanted != self._said:
            self._said = wanted
            self._say(wanted)
