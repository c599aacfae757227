"""Carry the requests of ordinary HTTP clients on this machine to an attested endpoint (spec/8-serving.md §6).

It listens on loopback only. Where the endpoint cannot prove what it is, the client gets 502 with the reason, and the
endpoint gets nothing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Final
from urllib.parse import urlsplit

from strongroom.errors import EvidenceError, RefusedError, StrongroomError, UsageError
from strongroom.serving.connections import Allowance
from strongroom.serving.forwarding import Opens, Ways
from strongroom.serving.http import Request, Response, SocketStream, serve_http

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
# What belongs to one connection is not carried to the next (RFC 9110 §7.6.1); neither is what authenticates elsewhere.
_OWN: Final = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"}
    | {"content-length", "host", "authorization", "proxy-authorization", "cookie", "expect", "accept-encoding"}
)


class Proxy:
    """A proxy for one endpoint; ``address`` is where clients find it."""

    def __init__(self, attester: Opens, *, listen: tuple[str, int], reattest: float) -> None:
        if listen[0] not in _LOOPBACK:
            raise UsageError(
                f"the proxy listens on loopback, not on {listen[0]}",
                hint="whoever reaches it asks in your name; use 127.0.0.1",
            )
        self._ways = Ways(attester, reattest=reattest)
        try:
            self._socket = socket.create_server(listen, family=socket.AF_INET6 if ":" in listen[0] else socket.AF_INET)
        except OSError as error:
            raise UsageError(f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror}") from error
        host, port = self._socket.getsockname()[:2]
        self.address: tuple[str, int] = (host, port)
        self._closed = threading.Event()

    def serve(self) -> None:
        """Carry requests until :meth:`close` is called."""
        while not self._closed.is_set():
            try:
                plain, _ = self._socket.accept()
            except OSError:
                continue
            threading.Thread(target=self._serve_one, args=(plain,), daemon=True).start()

    def _serve_one(self, plain: socket.socket) -> None:
        serve_http(SocketStream(plain), self.carry, allowance=Allowance())

    def start(self) -> None:
        """Carry requests in a thread of its own."""
        threading.Thread(target=self.serve, name="proxy", daemon=True).start()

    def close(self) -> None:
        """Stop listening and close every channel."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._ways.close()

    def carry(self, request: Request) -> Response:
        """Return the endpoint's response to ``request``, or 502 and why there is none; 403 to a web page's script."""
        if (foreign := _foreign(request)) is not None:
            return refuse(foreign)
        headers = [(name, value) for name, value in request.headers.items() if name not in _OWN]
        try:
            answer = self._ways.ask(request, headers=headers)
        except StrongroomError as error:
            return refuse(error)
        told = dict(answer.headers)
        kind = told.get("content-type", "application/json")
        kept = {name: value for name, value in told.items() if name not in _OWN and name != "content-type"}
        if kind.startswith("text/event-stream"):
            return Response(status=answer.status, body=answer.pieces, kind=kind, headers=kept)
        try:
            body = b"".join(answer.pieces)
        except StrongroomError as error:
            return refuse(error)
        return Response(status=answer.status, body=body, kind=kind, headers=kept)


def refuse(error: StrongroomError) -> Response:
    """Return what an ordinary client is told when the endpoint is not trusted (502) or does not let it ask (403)."""
    told: dict[str, object] = {"error": error.message, "kind": error.kind}
    if error.hint:
        told["hint"] = error.hint
    if isinstance(error, EvidenceError):
        told["step"] = error.step
    if isinstance(error, RefusedError):
        told["reasons"] = list(error.reasons)
        return _told(403, told)
    return _told(502, told)


def _foreign(request: Request) -> RefusedError | None:
    """Return why a request is not from a client of this machine, if it is not.

    A browser lets any web page send requests to loopback, and read the answers where the page's own name was made to
    mean this machine. Both show in the headers that the browser, not the page, writes.
    """
    host, origin = request.headers.get("host"), request.headers.get("origin")
    reasons = []
    if host is not None and _name(f"//{host}") not in _LOOPBACK:
        reasons.append(f"it was sent to {host[:80]!r}, must be to one of {sorted(_LOOPBACK)}")
    if origin is not None and _name(origin) not in _LOOPBACK:
        reasons.append(f"it comes from a page of {origin[:80]!r}")
    if not reasons:
        return None
    hint = "a web page asks in your name; close it, or ask http://127.0.0.1 from a client of this machine"
    return RefusedError("this request is not from a client of this machine", reasons=reasons, hint=hint)


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _told(status: int, told: dict[str, object]) -> Response:
    return Response(status=status, body=json.dumps(told).encode())
