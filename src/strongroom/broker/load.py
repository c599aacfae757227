"""Say whether this broker is busy: whether it lately spent most of one core's time (spec/4-release.md §6.1).

It decides nothing about a request: a busy broker's commits wait a moment for company, and an idle one's do not.
"""

from __future__ import annotations

from collections.abc import Callable

WINDOW_SECONDS = 0.05
BUSY_SHARE = 0.6


class Load:
    """The share of one core that was used over the last window, looked at whenever somebody asks."""

    def __init__(self, *, passed: Callable[[], float], spent: Callable[[], float]) -> None:
        self._passed, self._spent = passed, spent
        self._since, self._spent_then = passed(), spent()
        self._busy = False

    def is_busy(self) -> bool:
        """Return whether the last whole window, or the longer time since somebody asked, was a busy one."""
        now = self._passed()
        if (length := now - self._since) >= WINDOW_SECONDS:
            spent = self._spent()
            self._busy = spent - self._spent_then >= BUSY_SHARE * length
            self._since, self._spent_then = now, spent
        return self._busy
