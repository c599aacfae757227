"""Speak HTTP/1.1 on any stream: an attested channel, or a socket of the proxy (h11 parses and frames).

One request at a time on each connection, each bounded. A handler returns a response; what it raises is its own matter.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import h11

from strongroom.errors import StrongroomError, TransportError
from strongroom.serving.connections import Allowance

MOST_BODY_BYTES: Final = 16 << 20
_BLOCK: Final = 1 << 16
IDLE_SECONDS: Final = 300.0


class Stream(Protocol):
    """Bytes both ways."""

    def read(self, most: int, *, deadline: float) -> bytes:
        """Return the next bytes, none at the end."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...


class SocketStream:
    """A connected socket as a stream."""

    def __init__(self, plain: socket.socket) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._plain = plain

    def read(self, most: int, *, deadline: float) -> bytes:
        """Return the next bytes, none at the end; raise TransportError after ``deadline`` seconds."""
        self._plain.settimeout(deadline)
        try:
            return self._plain.recv(most)
        except TimeoutError as error:
            raise TransportError(f"the other side sent nothing for {deadline:.0f} s") from error
        except OSError as error:
            raise TransportError("the connection broke") from error

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        try:
            self._plain.sendall(data)
        except OSError as error:
            raise TransportError("the connection broke") from error

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._plain.shutdown(socket.SHUT_RDWR)
        self._plain.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request with its whole body; the names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What is answered: a whole body, or pieces that leave as they come."""

    status: int
    body: bytes | Iterable[bytes] = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


def serve_http(
    stream: Stream,
    handle: Handler,
    *,
    last: Callable[[], bool] = lambda: False,
    idle: float = IDLE_SECONDS,
    busy: Callable[[bool], None] = lambda _busy: None,
    allowance: Allowance,
) -> None:
    """Answer the requests on ``stream`` until its end, and close it.

    Once ``last`` says so, the next answer is the last. ``busy`` is told when a request came and when it was answered.
    ``allowance`` is where the bytes of a request are held until it is answered.
    """
    line = h11.Connection(h11.SERVER, max_incomplete_event_size=_BLOCK)
    try:
        while True:
            try:
                request = _read_request(stream, line, idle=idle, held=allowance)
            except h11.RemoteProtocolError as error:
                _refuse(stream, line, error.error_status_hint)
                return
            if request is None:
                return
            busy(True)
            try:
                response = handle(request)
                _write(stream, line, response, close=last())
            finally:
                busy(False)
                allowance.free()
            if line.our_state is h11.MUST_CLOSE or line.their_state is h11.MUST_CLOSE:
                return
            line.start_next_cycle()
    except (StrongroomError, h11.ProtocolError):
        return  # the other side is gone, or broke the protocol
    finally:
        allowance.free()
        stream.close()


def _read_request(stream: Stream, line: h11.Connection, *, idle: float, held: Allowance) -> Request | None:
    head: h11.Request | None = None
    parts: list[bytes] = []
    size = 0
    while True:
        event: Any = line.next_event()
        if event is h11.NEED_DATA:
            if line.they_are_waiting_for_100_continue:
                stream.write(line.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            line.receive_data(_read(stream, idle))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > MOST_BODY_BYTES:
                raise h11.RemoteProtocolError("the body is too large", error_status_hint=413)
            if not held.take(len(event.data)):
                raise h11.RemoteProtocolError("too much is under way from this caller", error_status_hint=503)
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            return Request(
                method=head.method.decode("ascii"),
                path=head.target.decode("ascii", "replace"),
                headers=headers,
                body=b"".join(parts),
            )
        else:
            return None  # the connection was closed


def _read(stream: Stream, idle: float) -> bytes:
    try:
        return stream.read(_BLOCK, deadline=idle)
    except TransportError:
        return b""


def _write(stream: Stream, line: h11.Connection, response: Response, *, close: bool) -> None:
    headers = [("content-type", response.kind), *response.headers.items()]
    whole = isinstance(response.body, bytes)
    headers.append(
        ("content-length", str(len(response.body)))  # type: ignore[arg-type]  # whole says that it is bytes
        if whole
        else ("transfer-encoding", "chunked")
    )
    if close:
        headers.append(("connection", "close"))
    head = line.send(h11.Response(status_code=response.status, headers=headers)) or b""
    if isinstance(response.body, bytes):
        body = line.send(h11.Data(data=response.body)) or b""
        stream.write(head + body + (line.send(h11.EndOfMessage()) or b""))
        return
    stream.write(head)
    for piece in response.body:
        if piece:
            stream.write(line.send(h11.Data(data=piece)) or b"")
    stream.write(line.send(h11.EndOfMessage()) or b"")


def _refuse(stream: Stream, line: h11.Connection, status: int) -> None:
    if line.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
        _write(stream, line, Response(status=status, body=b'{"error":"not a request"}'), close=True)
