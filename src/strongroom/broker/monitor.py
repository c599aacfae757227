"""Show the operator how the broker is: /metrics, /healthz and /readyz, over plain HTTP (spec/4-release.md §4.3).

A listener of its own, on the loopback address unless told otherwise. It shows counts and times, takes no parameter and
changes nothing. Its answers are made on the broker's own event loop, so a broker that hangs is not called healthy.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from strongroom.broker.desk import Desk
from strongroom.broker.tally import COMMIT_SECONDS
from strongroom.broker.vigil import Vigil
from strongroom.catalog.store import StoreError
from strongroom.errors import UsageError

PATIENCE = 5.0
MOST_CALLERS = 8  # at once: in an enclave the number of threads is fixed, and the doors need theirs
TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OUTCOMES = {200: "answered", 400: "malformed", 401: "unproven", 403: "refused", 404: "no_door", 409: "conflict"}


class Monitor:
    """The operator's listener; ``desk`` is None until the broker serves, and while it stands by.

    ``vigil`` is there while it is sealed, and says how many custodians have contributed.

    It waits ``patience`` seconds for the event loop, and as long for a caller to say what it wants.
    """

    def __init__(self, host: str, port: int, *, patience: float = PATIENCE) -> None:
        self.desk: Desk | None = None
        self.vigil: Vigil | None = None
        self.patience = patience
        self._loop = asyncio.get_running_loop()
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(self))
        ProcessCollector(registry=self._registry)
        try:
            self._server = _server(host, port, self)
        except OSError as error:
            raise UsageError(
                f"cannot show metrics on {host}:{port}: {error.strerror}", hint="name another address with --metrics"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitor", daemon=True)
        self._thread.start()

    def answer(self, path: str) -> tuple[HTTPStatus, bytes]:
        """Return what to say at ``path``; called from the listener's threads."""
        try:
            return asyncio.run_coroutine_threadsafe(self._answer(path), self._loop).result(self.patience)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError, RuntimeError):
            return HTTPStatus.SERVICE_UNAVAILABLE, b"the broker does not answer\n"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    async def _answer(self, path: str) -> tuple[HTTPStatus, bytes]:
        failed = self.desk is not None and self.desk.book.failure.done()
        if path == "/metrics":
            return HTTPStatus.OK, generate_latest(self._registry)
        if path == "/healthz":
            state = b"the store failed\n" if failed else b"ok\n"
            return (HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK), state
        if path == "/readyz":
            with contextlib.suppress(StoreError):
                if self.desk is not None:
                    await self.desk.book.stand_alone()  # An idle broker learns here that another took over its store.
                    return HTTPStatus.OK, b"ok\n"
            return HTTPStatus.SERVICE_UNAVAILABLE, self._why_not_serving()
        return HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n"

    def _why_not_serving(self) -> bytes:
        """Return numbers alone: who has to contribute is told by the sealed broker's own door."""
        if self.vigil is None:
            return b"not serving\n"
        given, all_ = len(self.vigil.given), len(self.vigil.custodians)
        return f"sealed: {given} of {all_} custodians have contributed\n".encode()


class _Figures(Collector):
    """Turns the tally and what the broker holds into metrics, anew each time they are asked for."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        desk = self._monitor.desk
        yield _gauge("serving", "1 while this broker serves, 0 while it starts or stands by", desk is not None)
        vigil = self._monitor.vigil
        yield _gauge("sealed", "1 while this broker waits for its custodians to unseal it", vigil is not None)
        missing = 0 if vigil is None else len(vigil.custodians) - len(vigil.given)
        yield _gauge("custodians_missing", "custodians who have yet to contribute", missing)
        if desk is None:
            return
        yield from _count(desk)
        yield from _measure(desk, now=datetime.now(UTC))


def _count(desk: Desk) -> Iterator[Metric]:
    tally = desk.tally
    answers = CounterMetricFamily(
        "strongroom_broker_answers", "answers by door and outcome", labels=["door", "outcome"]
    )
    for (door, status), number in sorted(tally.answers.items()):
        answers.add_metric([door, _OUTCOMES.get(status, "failed")], number)
    yield answers
    entries = CounterMetricFamily(
        "strongroom_broker_entries", "ledger entries written since the start, by kind", labels=["kind"]
    )
    for kind, number in sorted(tally.entries.items()):
        entries.add_metric([kind], number)
    yield entries
    seconds = HistogramMetricFamily("strongroom_broker_commit_seconds", "time that a shared commit took")
    total, buckets = 0, []
    for bound, number in zip([*map(str, COMMIT_SECONDS), "+Inf"], tally.commits, strict=True):
        total += number
        buckets.append((bound, total))
    seconds.add_metric([], buckets, sum_value=tally.commit_seconds)
    yield seconds
    yield CounterMetricFamily("strongroom_broker_committed_entries", "entries in all commits", value=tally.committed)


def _measure(desk: Desk, *, now: datetime) -> Iterator[Metric]:
    sessions = desk.sessions.open_at(now)
    yield _gauge("sessions", "attested sessions that are open", len(sessions))
    leases = sum(1 for one in sessions if one.held_until is not None and one.held_until > now)
    yield _gauge("leases", "sessions that hold keys under a lease", leases)
    yield _gauge("nonces", "nonces that were issued and not yet used or overtaken", len(desk.nonces))
    yield _gauge("ledger_entries", "size of the ledger", desk.book.log.size)
    state = desk.state
    for name, held in (
        ("members", state.members),
        ("datasets", state.datasets),
        ("revoked_datasets", state.revoked),
        ("jobs", state.jobs),
    ):
        yield _gauge(name, f"{name.replace('_', ' ')} in the store", len(held))
    expiry = GaugeMetricFamily(
        "strongroom_broker_collateral_expiry_seconds",
        "until the collateral of the last appraisal runs out",
        labels=["tee"],
    )
    evaluation = GaugeMetricFamily(
        "strongroom_broker_tcb_evaluation_number", "of the collateral of the last appraisal", labels=["tee"]
    )
    for tee, seen in sorted(desk.tally.collateral.items()):
        expiry.add_metric([tee], (seen.expires - now).total_seconds())
        evaluation.add_metric([tee], seen.evaluation_number)
    yield expiry
    yield evaluation


def _gauge(name: str, said: str, value: float) -> Metric:
    return GaugeMetricFamily(f"strongroom_broker_{name}", said, value=float(value))


class _Until(io.RawIOBase):
    """Reads from a connection until a time of the monotonic clock."""

    def __init__(self, connection: socket.socket, ends: float) -> None:
        self._connection = connection
        self._ends = ends

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401  a writable buffer
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the caller took too long to say what it wants")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _server(host: str, port: int, monitor: Monitor) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET, and tells nobody which Python this is."""

        server_version, sys_version, timeout = "strongroom", "", monitor.patience

        def setup(self) -> None:
            """Give the caller its patience once, and not anew for every byte."""
            super().setup()
            self.rfile = io.BufferedReader(_Until(self.connection, time.monotonic() + monitor.patience))

        def do_GET(self) -> None:
            status, body = monitor.answer(self.path)
            self.connection.settimeout(monitor.patience)
            self.send_response(status)
            self.send_header("content-type", TEXT)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Log nothing: probes come every few seconds."""

    class Listener(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True
        free = threading.BoundedSemaphore(MOST_CALLERS)

        def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
            """Answer in a thread of its own, or hang up when too many are being answered."""
            if self.free.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
            """Make room for the next when this one is answered."""
            try:
                super().process_request_thread(request, client_address)
            finally:
                self.free.release()

        def handle_error(self, request: object, client_address: object) -> None:  # a caller that went away
            """Say nothing: it is the caller's loss."""

    return Listener((host, port), Handler)
