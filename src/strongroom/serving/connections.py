"""Keep count of the channels that callers ask on, so that none of them takes the endpoint's memory from the others."""

from __future__ import annotations

import threading
from typing import Final, Protocol

from strongroom.serving.batching import BusyError

MOST_OF_CALLER: Final = 256


class Closable(Protocol):
    """A channel, as far as it matters here."""

    def close(self) -> None:
        """End it."""
        ...


class Connections:
    """The open channels, by the fingerprint of who asks on them; one caller has at most ``most_of_caller``."""

    def __init__(self, *, most_of_caller: int = MOST_OF_CALLER) -> None:
        self._most = most_of_caller
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
