"""Renew a grant while the policies still hold, and tell the holder to stop when they no longer do.

Never extends a lease by its own clock alone: a broker that cannot be reached before the lease ends counts as a refusal
(spec/4-release.md §9). The end is watched by a thread of its own, since a broker that does not answer at all would keep
the asking one waiting past it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from strongroom.errors import RefusedError, StrongroomError
from strongroom.workload.ending import describe_defect
from strongroom.workload.pulse import seconds_now

_SHORTEST_PAUSE = 0.2
_LOOK_SECONDS = 0.5  # how late a clock that went on while this machine slept may be noticed


class LeaseKeeper:
    """Renews one lease at a third of its length, more often after a failure, and calls ``on_lost`` at most once.

    ``asked`` is when the lease was asked for, by ``clock``: it counts from then, not from when the answer came.
    """

    def __init__(
        self,
        renew: Callable[[], float],
        *,
        seconds: float,
        asked: float,
        on_lost: Callable[[Sequence[str]], None],
        clock: Callable[[], float] = seconds_now,
    ) -> None:
        self._renew = renew
        self._seconds = seconds
        self._ends = asked + seconds
        self._on_lost = on_lost
        self._clock = clock
        self._trouble = "it did not answer"
        self._over = False
        self._changed = threading.Condition()

    def start(self) -> None:
        """Begin to renew."""
        threading.Thread(target=self._keep, name="lease", daemon=True).start()
        threading.Thread(target=self._watch, name="lease-end", daemon=True).start()

    def stop(self) -> None:
        """End renewal; the lease runs out by itself."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _keep(self) -> None:
        parts = 3
        while not self._pause(max(_SHORTEST_PAUSE, self._seconds / parts)):
            asked, parts = self._clock(), 12  # soon again after a failure, for a restarting broker is back in a moment
            try:
                seconds = self._renew()
            except RefusedError as error:
                self._lose(error.reasons or (error.message,))
                return
            except StrongroomError as error:
                self._trouble = error.message
            except Exception as error:  # noqa: BLE001  whatever it is, the lease was not renewed
                self._trouble = describe_defect(error).message
            else:
                parts = 3
                with self._changed:
                    if asked < self._ends:  # too late is lost, even while nobody has noticed yet
                        self._seconds, self._ends = seconds, asked + seconds

    def _watch(self) -> None:
        with self._changed:
            while not self._over and (left := self._ends - self._clock()) > 0:
                self._changed.wait(min(left, _LOOK_SECONDS))
        self._lose((f"the lease ended and the broker could not renew it: {self._trouble}",))

    def _pause(self, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._over, seconds)

    def _lose(self, reasons: Sequence[str]) -> None:
        with self._changed:
            if self._over:
                return
            self._over = True
            self._changed.notify_all()
        self._on_lost(reasons)
