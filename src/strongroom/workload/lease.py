"""Renew a grant while the policies still hold, and tell the holder to stop when they no longer do.

Never extends a lease by its own clock alone: a broker that cannot be reached before the lease ends counts as a refusal
(spec/4-release.md §9).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from strongroom.errors import RefusedError, StrongroomError


class LeaseKeeper:
    """A thread that renews one lease at a third of its length and calls ``on_lost`` at most once."""

    def __init__(
        self,
        renew: Callable[[], float],
        *,
        seconds: float,
        on_lost: Callable[[Sequence[str]], None],
    ) -> None:
        self._renew = renew
        self._seconds = seconds
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """End renewal; the lease runs out by itself."""
        self._stop.set()

    def _run(self) -> None:
        ends = time.monotonic() + self._seconds
        while not self._stop.wait(max(0.2, self._seconds / 3)):
            asked = time.monotonic()
            try:
                self._seconds = self._renew()
                ends = asked + self._seconds
            except RefusedError as error:
                self._on_lost(error.reasons or (error.message,))
                return
            except StrongroomError as error:
                if time.monotonic() >= ends:
                    self._on_lost((f"the lease ended and the broker could not renew it: {error.message}",))
                    return
