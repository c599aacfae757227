"""Carry whole HTTP requests over attested channels that are kept open, each used until it was attested too long ago.

The proxy's way to an endpoint: a request is written as it came, with h11 at both ends and nothing between.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import h11

from strongroom.attestation.channel import AttestedChannel
from strongroom.errors import StrongroomError, TransportError
from strongroom.serving.batching import BusyError
from strongroom.serving.http import Request

MOST_CHANNELS: Final = 64
_BLOCK: Final = 1 << 16
_ANSWER_SECONDS: Final = 120.0

Headers = Sequence[tuple[str, str]]


class Opens(Protocol):
    """Whatever opens channels to an endpoint."""

    def open(self) -> AttestedChannel:
        """Return a channel on which the endpoint expects HTTP."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the endpoint answers; ``pieces`` are its body as it comes, and have to be read to the end or closed."""

    status: int
    headers: Headers
    pieces: Iterator[bytes]


class Ways:
    """The channels to one endpoint, at most 64; each is left ``reattest`` seconds after it was attested."""

    def __init__(self, attester: Opens, *, reattest: float) -> None:
        self._attester = attester
        self._reattest = reattest
        self._idle: list[_Way] = []
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(MOST_CHANNELS)
        self._closed = False

    def ask(self, request: Request, *, headers: Headers) -> Answer:
        """Send ``request`` with ``headers`` instead of its own, and return what is answered.

        Raises what opening a channel raises, BusyError if all stay in use, and TransportError if the endpoint hangs up.
        """
        if not self._room.acquire(timeout=_ANSWER_SECONDS):
            raise BusyError(f"all {MOST_CHANNELS} channels to the endpoint are in use", hint="ask again in a moment")
        try:
            way = self._take()
            try:
                head = way.ask(request, headers)
            except BaseException:
                way.close()
                raise
        except BaseException:
            self._room.release()
            raise
        named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
        pieces = self._hear(way)
        next(pieces)  # begun, so that it ends properly however it ends
        return Answer(status=head.status_code, headers=named, pieces=pieces)

    def close(self) -> None:
        """Close the channels that nobody uses, and keep none from now on."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for way in idle:
            way.close()

    def _take(self) -> _Way:
        """Return an idle channel that is still good, the one used last, or a new one."""
        while True:
            with self._lock:
                way = self._idle.pop() if self._idle else None
            if way is None:
                return _Way(self._attester.open(), ends=time.monotonic() + self._reattest)
            if way.good():
                return way
            way.close()

    def _hear(self, way: _Way) -> Iterator[bytes]:
        again = False
        try:
            yield b""
            yield from way.pieces()
            again = way.begin_anew()
        finally:
            with self._lock:
                again = again and not self._closed
                if again:
                    self._idle.append(way)
            if not again:
                way.close()
            self._room.release()


class _Way:
    """One channel and where its conversation stands."""

    def __init__(self, channel: AttestedChannel, *, ends: float) -> None:
        self._channel = channel
        self._ends = ends
        self._line = h11.Connection(h11.CLIENT, max_incomplete_event_size=_BLOCK)

    def good(self) -> bool:
        """Return whether it may be used again: attested lately, and not closed by the other end."""
        return time.monotonic() < self._ends and not self._channel.has_arrived()

    def ask(self, request: Request, headers: Headers) -> h11.Response:
        """Send a request and return the head of the answer."""
        line = self._line
        framed = [("host", "endpoint"), *headers]
        if request.body or request.method in {"POST", "PUT", "PATCH"}:
            framed.append(("content-length", str(len(request.body))))
        try:
            sent = line.send(h11.Request(method=request.method, target=request.path, headers=framed)) or b""
            if request.body:
                sent += line.send(h11.Data(data=request.body)) or b""
            self._channel.write(sent + (line.send(h11.EndOfMessage()) or b""))
        except h11.LocalProtocolError as error:
            raise TransportError(f"the request cannot be carried: {error}") from error
        while not isinstance(event := self._next(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise TransportError("the endpoint did not answer", hint="ask again")
        return event

    def pieces(self) -> Iterator[bytes]:
        """Yield the body of the answer as it comes."""
        while not isinstance(event := self._next(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise TransportError("the endpoint hung up in the middle of an answer", hint="ask again")
            yield bytes(event.data)

    def begin_anew(self) -> bool:
        """Return whether another request may follow on this channel."""
        if self._line.our_state is not h11.DONE or self._line.their_state is not h11.DONE:
            return False
        self._line.start_next_cycle()
        return True

    def close(self) -> None:
        """End the channel."""
        with contextlib.suppress(StrongroomError):
            self._channel.close()

    def _next(self) -> Any:  # noqa: ANN401  h11's events have no type in common
        try:
            while (event := self._line.next_event()) is h11.NEED_DATA:
                self._line.receive_data(self._channel.read(_BLOCK, deadline=_ANSWER_SECONDS))
        except h11.RemoteProtocolError as error:
            raise TransportError(f"the endpoint hung up: {error}", hint="ask again") from error
        return event
