"""Let the threads of one workload call the broker one after the other, with whoever must not wait going first.

A session's requests are numbered, so they cannot overlap. A driver that admits a thousand workers must still renew its
lease in time: a renewal goes before every admission that waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class _Waiter:
    """A thread in line."""

    def __init__(self, thread: int, lock: threading.Lock) -> None:
        self.thread = thread
        self.woken = threading.Condition(lock)


class Turns:
    """A lock that its holder may take again, that urgent callers get first and the others in the order they came.

    Whoever is done hands the turn to the next and wakes nobody else: a crowd that all woke would do little but wake.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self._depth = 0
        self._urgent: deque[_Waiter] = deque()
        self._others: deque[_Waiter] = deque()

    @contextlib.contextmanager
    def take(self, *, urgent: bool = False) -> Iterator[None]:
        """Hold the turn; others wait."""
        me = threading.get_ident()
        with self._lock:
            if self._holder == 0:
                self._holder = me
            elif self._holder != me:
                self._wait(me, self._urgent if urgent else self._others)
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._hand_on()

    def _wait(self, me: int, line: deque[_Waiter]) -> None:
        """Wait until the turn is handed to ``me``; the lock is held before and after."""
        waiter = _Waiter(me, self._lock)
        line.append(waiter)
        try:
            waiter.woken.wait_for(lambda: self._holder == me)
        except BaseException:  # such as Ctrl-C
            if self._holder == me:
                self._hand_on()
            else:
                line.remove(waiter)
            raise

    def _hand_on(self) -> None:
        line = self._urgent or self._others
        self._holder = 0
        if line:
            waiter = line.popleft()
            self._holder = waiter.thread
            waiter.woken.notify()
