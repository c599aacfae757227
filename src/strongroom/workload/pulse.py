"""Say regularly that one is alive, so that the other end of a channel notices a process that hangs (spec/3-job.md §6).

A dead process closes its connections and is noticed at once; a stopped one, or one that the network lost, only falls
silent. Nothing but ``{"type": "alive"}`` is said here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

PULSE_SECONDS = 10.0
SILENCE_SECONDS = 120.0  # a program may keep Python busy in one long call; a silence this long is no such call
WORKER_SILENCE_SECONDS = 45.0  # a worker's Python only waits; what is busy in it is its executor, another process

ALIVE: dict[str, Any] = {"type": "alive"}


class Pulse:
    """A thread that calls ``beat`` every ten seconds until it is stopped, or until ``beat`` returns False."""

    def __init__(self, beat: Callable[[], bool]) -> None:
        self._beat = beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; safe to call twice."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(PULSE_SECONDS) and self._beat():
            pass


def seconds_now() -> float:
    """Return a clock's seconds that nobody can set back and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
