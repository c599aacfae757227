"""Keep count of the channels that callers ask on, so that none of them takes the endpoint's memory from the others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from strongroom.serving.batching import BusyError

MOST_OF_CALLER: Final = 256
MOST_BYTES: Final = 64 << 20


class Closable(Protocol):
    """A channel, as far as it matters here."""

    def close(self) -> None:
        """End it."""
        ...


class Allowance:
    """What the request on one channel holds of its caller's memory; ``hold`` takes bytes, or gives them back."""

    def __init__(self, hold: Callable[[int], bool] = lambda _octets: True) -> None:
        self._hold = hold
        self._held = 0

    def take(self, octets: int) -> bool:
        """Hold ``octets`` more; return False if the caller has no more."""
        if not self._hold(octets):
            return False
        self._held += octets
        return True

    def free(self) -> None:
        """Give back all that is held."""
        self._hold(-self._held)
        self._held = 0


class Connections:
    """The open channels, by the fingerprint of who asks on them; one caller has at most ``most_of_caller``.

    The requests that one caller has under way on all of them have at most ``most_bytes`` together.
    """

    def __init__(self, *, most_of_caller: int = MOST_OF_CALLER, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_of_caller
        self._most_bytes = most_bytes
        self._bytes: Counter[str] = Counter()
        self._open: dict[Closable, str] = {}
        self._lock = threading.Lock()

    def take(self, channel: Closable, *, caller: str) -> None:
        """Take in a channel; raise BusyError if its caller has as many as it may."""
        with self._lock:
            if sum(one == caller for one in self._open.values()) >= self._most:
                raise BusyError(
                    f"this caller has {self._most} connections to the endpoint already", hint="ask on one of those"
                )
            self._open[channel] = caller

    def allowance(self, caller: str) -> Allowance:
        """Return what one channel of ``caller`` takes its requests' bytes from."""
        return Allowance(lambda octets: self._hold(caller, octets))

    def _hold(self, caller: str, octets: int) -> bool:
        with self._lock:
            if octets > 0 and self._bytes[caller] + octets > self._most_bytes:
                return False
            self._bytes[caller] += octets
            return True

    def drop(self, channel: Closable) -> None:
        """Forget a channel that is over; safe to call twice."""
        with self._lock:
            self._open.pop(channel, None)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            channels = list(self._open)
        for channel in channels:
            channel.close()
