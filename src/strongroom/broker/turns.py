"""Let the threads of one workload call the broker one after the other, with whoever must not wait going first.

A session's requests are numbered, so they cannot overlap. A driver that admits a thousand workers must still renew its
lease in time: a renewal goes before every admission that waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """A lock that its holder may take again, and that urgent callers get first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder = 0
        self._depth = 0
        self._urgent = 0

    @contextlib.contextmanager
    def take(self, *, urgent: bool = False) -> Iterator[None]:
        """Hold the turn; others wait."""
        me = threading.get_ident()
        with self._changed:
            self._urgent += urgent
            try:
                self._changed.wait_for(lambda: self._may_take(me, urgent=urgent))
            finally:
                self._urgent -= urgent
            self._holder = me
            self._depth += 1
        try:
            yield
        finally:
            with self._changed:
                self._depth -= 1
                if self._depth == 0:
                    self._holder = 0
                    self._changed.notify_all()

    def _may_take(self, me: int, *, urgent: bool) -> bool:
        return self._holder == me or (self._depth == 0 and (urgent or self._urgent == 0))
