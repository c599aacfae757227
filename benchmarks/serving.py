"""Serving: what a request costs an attested endpoint, next to the same model behind HTTPS; and through the proxy.

The model is an XGBoost ensemble; the plain server runs the same program with the same batching and HTTP code, over
Python's own TLS, and on a bare socket; Granian serves it as people would who have nothing to hide. The same client asks
all, turn about. What counts is the
server's own CPU time per request at full load, and the time that a caller waits when it asks alone. Servers run on one
core and the clients, whose CPU time is not counted, on the others.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.harness import Figure, Options, Report, apart, load, pin
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.serving.client import Attester
from strongroom.serving.endpoint import ChannelStream
from strongroom.serving.http import SocketStream, Stream
from strongroom.serving.proxy import Proxy

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# The journeys' world is real: a broker, an owner, measured processes.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "journey"))
from serving_world import serving_world
from small_world import pids

GOAL: Final = 1.25
CONNECTIONS: Final = 8
ROWS: Final = (1, 64)
BARE, PLAIN, ATTESTED, PROXIED = "plain HTTP", "HTTPS", "attested endpoint", "through the proxy"
GRANIAN: Final = "HTTPS by Granian"
SERVERS: Final = (BARE, PLAIN, GRANIAN, ATTESTED, PROXIED)
PROGRAM: Final = dedent("""
    def predict(model, inputs):
        return {"chance": model.inplace_predict(inputs["x"])}
""")
Open = Callable[[], Stream]
Key = tuple[str, int]  # which server, how many rows


@dataclass
class Measured:
    """What each round found of one server."""

    cpu: list[float] = field(default_factory=list)  # milliseconds of the server per request, all connections busy
    rates: list[float] = field(default_factory=list)  # requests per second then
    waits: list[list[float]] = field(default_factory=list)  # milliseconds of each request, one connection


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server under test: how to reach it, and whose CPU time counts."""

    open: Open
    pid: int


class Asker:
    """One connection that asks the same again and again, with as little work of its own as possible."""

    def __init__(self, opened: Open, request: bytes) -> None:
        self._stream = opened()
        self._request = request

    def ask(self) -> None:
        """Send the request and read the whole answer."""
        self._stream.write(self._request)
        heard = bytearray()
        while b"\r\n\r\n" not in heard:
            heard += self._read()
        head, _, body = bytes(heard).partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        if b" 200 " not in lines[0]:
            raise RuntimeError(bytes(heard).decode())
        size = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        while len(body) < size:
            body += self._read()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()

    def _read(self) -> bytes:
        data = self._stream.read(1 << 16, deadline=60)
        if not data:
            raise RuntimeError("the server hung up")
        return data


def run(options: Options) -> Report:
    """Measure all servers, turn about, with one row a request and with many."""
    rounds, busy, alone = (5, 800, 200) if options.quick else (9, 1600, 400)
    requests = {rows: _request(rows) for rows in ROWS}
    found = {(name, rows): Measured() for rows in ROWS for name in SERVERS}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as place:
        core = stack.enter_context(apart())
        servers, attester, entries = stack.enter_context(_servers(Path(place)))
        for server in servers.values():
            pin(server.pid, core)
        opening = [_seconds(lambda: attester.open().close()) * 1000 for _ in range(10)]
        for number in range(rounds + 1):
            order = list(found) if number % 2 else list(found)[::-1]
            for name, rows in order:
                cpu, rate = _at_full_load(servers[name], requests[rows], busy)
                waits = _asked_alone(servers[name], requests[rows], alone)
                if number:  # the first round warms up
                    found[name, rows].cpu.append(cpu)
                    found[name, rows].rates.append(rate)
                    found[name, rows].waits.append(waits)
            options.say(f"round {number} of {rounds}")
        written, answered = entries()
    return _report(found, opening=opening, written=written, answered=answered)


def _report(found: Mapping[Key, Measured], *, opening: list[float], written: int, answered: int) -> Report:
    figures: list[Figure] = []
    for rows in ROWS:
        for to, goal in ((PLAIN, GOAL), (GRANIAN, None), (BARE, None)):
            costs = _ratio(found, lambda one: one.cpu, rows, to=to)
            served = _ratio(found, lambda one: one.rates, rows, to=to)
            waited = _ratio(found, lambda one: [statistics.median(waits) for waits in one.waits], rows, to=to)
            figures += [
                Figure(name=f"{rows} rows: CPU per request, attested to {to}", value=costs, unit="x", at_most=goal),
                Figure(
                    name=f"{rows} rows: time per request at full load, attested to {to}", value=1 / served, unit="x"
                ),
                Figure(name=f"{rows} rows: median wait, attested to {to}", value=waited, unit="x", at_most=goal),
            ]
    for (name, rows), one in found.items():
        waits = [wait for waits in one.waits for wait in waits]
        figures += [
            Figure(
                name=f"{name}, {rows} rows: requests, {CONNECTIONS} connections", value=_median(one.rates), unit="/s"
            ),
            Figure(name=f"{name}, {rows} rows: CPU per request", value=_median(one.cpu), unit="ms"),
            Figure(name=f"{name}, {rows} rows: wait, median", value=_median(waits), unit="ms"),
            Figure(name=f"{name}, {rows} rows: wait, 99th", value=float(np.percentile(waits, 99)), unit="ms"),
        ]
    figures += [
        Figure(name="attesting the endpoint, once per connection", value=_median(opening), unit="ms"),
        Figure(name="answers per entry of the ledger", value=answered / max(1, written), unit=""),
    ]

    return Report(
        name="serving",
        title="An attested endpoint next to the same model without one",
        figures=figures,
        notes=(
            f"XGBoost, 100 trees of depth 6, 30 numbers a row; {CONNECTIONS} connections for load, one for waits",
            "HTTPS: the same program, batching, tensors and HTTP code over Python's own TLS 1.3",
            "plain HTTP: that server without TLS; by Granian: an ASGI application under Rust's HTTP and TLS, unbatched",
            "each server on one core, its clients on the others; ratios are medians of the rounds'",
            "through the proxy: CPU is the proxy's own, on top of the endpoint's",
            f"{answered} answers to requests in {written} entries; load of the machine at the end {load():.1f}",
            "the TEE is simulated: what hardware adds to CPU time is not in these figures",
        ),
        draw=lambda canvas: _draw(canvas, found),  # type: ignore[arg-type]  # a matplotlib figure
        size=(11.0, 7.0),
    )


def _ratio(found: Mapping[Key, Measured], values: Callable[[Measured], list[float]], rows: int, *, to: str) -> float:
    """Return the median over rounds of what the attested endpoint needs per what another server needs."""
    pairs = zip(values(found[ATTESTED, rows]), values(found[to, rows]), strict=True)
    return statistics.median(one / other for one, other in pairs)


@contextmanager
def _servers(place: Path) -> Iterator[tuple[dict[str, Server], Attester, Callable[[], tuple[int, int]]]]:
    import xgboost
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    trees = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 6, "nthread": 1}, xgboost.DMatrix(data.data, data.target), 100
    )
    model, program = place / "model.ubj", place / "program.py"
    trees.save_model(model)
    program.write_text(PROGRAM)
    with ExitStack() as stack:
        world = stack.enter_context(
            serving_world(
                place,
                owners={"hospital": "trees-model"},
                models={"trees-model": {"model.ubj": model.read_bytes()}},
                programs=(PROGRAM.encode(),),
                kinds=("scores",),
                quotas=((100_000_000, 3600),),
                lease=30,
            )
        )
        events: list[Any] = []
        job = world.serve_job("trees", program=PROGRAM)
        endpoint = world.serve(job, on_event=lambda name, facts: events.append((name, facts)))
        stack.callback(endpoint.stop)
        attester = world.attester(endpoint)
        pem = place / "plain.pem"
        pem.write_bytes(_key_and_certificate())
        plain = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._plain_serving", str(program), str(model), str(pem)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # as an endpoint sets it for itself
        )
        stack.callback(plain.wait)
        stack.callback(plain.terminate)
        port, secure_port = map(int, plain.stdout.readline().split())  # type: ignore[union-attr]
        granian, granian_port = _start_granian(place, program=program, model=model, pem=pem)
        stack.callback(granian.wait)
        stack.callback(granian.terminate)
        proxy, proxy_port = _start_proxy(attester)
        stack.callback(proxy.join)
        stack.callback(proxy.terminate)

        def entries() -> tuple[int, int]:
            closed = [one.facts["closed"]["count"] for one in world.entries("answers") if "closed" in one.facts]
            return len(closed), sum(closed)

        yield (
            {
                BARE: Server(open=lambda: _connect(port), pid=plain.pid),
                PLAIN: Server(open=lambda: _connect(secure_port, trusted=pem), pid=plain.pid),
                GRANIAN: Server(open=lambda: _connect(granian_port, trusted=pem), pid=granian.pid),
                ATTESTED: Server(open=lambda: ChannelStream(attester.open()), pid=pids(events, "endpoint")[0]),
                PROXIED: Server(open=lambda: _connect(proxy_port), pid=proxy.pid or 0),
            },
            attester,
            entries,
        )


def _start_granian(place: Path, *, program: Path, model: Path, pem: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Serve the model by Granian, which takes key and certificate apart and a port that is not 0."""
    head, mark, tail = pem.read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
    key, certificate = place / "granian.key", place / "granian.crt"
    key.write_bytes(head)
    certificate.write_bytes(mark + tail)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    files = map(str, (program, model, key, certificate))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._granian_serving", *files, str(port)],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return process, port
    raise RuntimeError("Granian does not listen")


def _start_proxy(attester: Attester) -> tuple[Any, int]:
    """Run the proxy in a process of its own, so that its CPU time is its own; keys are not sent anywhere."""
    context = multiprocessing.get_context("fork")
    told = context.Queue()

    def serve() -> None:
        proxy = Proxy(attester, listen=("127.0.0.1", 0), reattest=300)
        told.put(proxy.address[1])
        proxy.serve()

    process = context.Process(target=serve, daemon=True)
    process.start()
    return process, told.get(timeout=30)


def _connect(port: int, *, trusted: Path | None = None) -> Stream:
    """Return a connection, over TLS if there is a certificate to trust."""
    plain = socket.create_connection(("127.0.0.1", port))
    if trusted is None:
        return SocketStream(plain)
    context = ssl.create_default_context(cafile=str(trusted))
    context.check_hostname = False  # a workload's certificate names nobody; this one is pinned
    return SocketStream(context.wrap_socket(plain))


def _key_and_certificate() -> bytes:
    """Return a P-256 key and its certificate as the endpoint has one, in PEM."""
    keys = WorkloadKeys.generate()
    key = keys.reveal_tls_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return key + keys.certificate.public_bytes(Encoding.PEM)


def _request(rows: int) -> bytes:
    data = np.random.default_rng(1).random(30 * rows).tolist()
    tensor = {"name": "x", "shape": [rows, 30], "datatype": "FP64", "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/trees/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _at_full_load(server: Server, request: bytes, count: int) -> tuple[float, float]:
    """Return the server's milliseconds of CPU per request, and requests per second, with every connection busy.

    The load is there for a while before it is measured, as it is where it matters.
    """
    askers = [Asker(server.open, request) for _ in range(CONNECTIONS)]
    each = count // CONNECTIONS

    def ask(times: int) -> None:
        def work(asker: Asker) -> None:
            for _ in range(times):
                asker.ask()

        threads = [threading.Thread(target=work, args=(asker,)) for asker in askers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ask(each // 3)
    before, started = _cpu(server.pid), time.perf_counter()
    ask(each)
    seconds, cpu = time.perf_counter() - started, _cpu(server.pid) - before
    for asker in askers:
        asker.close()
    return cpu * 1000 / (each * CONNECTIONS), each * CONNECTIONS / seconds


def _asked_alone(server: Server, request: bytes, count: int) -> list[float]:
    """Return the milliseconds of ``count`` requests, one after the other on one connection."""
    asker = Asker(server.open, request)
    for _ in range(20):
        asker.ask()
    waits = [_seconds(asker.ask) * 1000 for _ in range(count)]
    asker.close()
    return waits


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process by Linux's clock of it, which ticks every nanosecond; /proc's every 10 ms."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3), which Python has for threads alone


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _median(values: list[float]) -> float:
    return float(statistics.median(values))


def _draw(canvas: Canvas, found: Mapping[Key, Measured]) -> None:
    """Draw what a request costs the server's core, and how long its caller waits, for one row and for many."""
    colors = {BARE: "#d9dee3", PLAIN: "#9aa5b1", GRANIAN: "#5d6b7a", ATTESTED: "#1f6f8b", PROXIED: "#e0a458"}
    for place, rows in zip(canvas.subplots(len(ROWS), 2), ROWS, strict=True):
        costs, waits = place
        names = list(colors)[::-1]
        values = [_median(found[name, rows].cpu) for name in names]
        labels = [f"{name}\n(the proxy's own)" if name == PROXIED else name for name in names]
        costs.axvline(goal := GOAL * _median(found[PLAIN, rows].cpu), color="#b23a48", linewidth=1)
        bars = costs.barh(labels, values, color=[colors[name] for name in names], height=0.6)
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the red line may run where a number stands
        costs.bar_label(bars, [f"{value:.2f}" for value in values], padding=4, bbox=plate)
        costs.set_xlim(0, 1.2 * max(goal, *values))
        costs.set_xlabel("CPU per request, ms")
        costs.set_title(f"{rows} row{'s' if rows > 1 else ''} a request; red: {GOAL} of HTTPS")
        for name, color in colors.items():
            ordered = np.sort([wait for each in found[name, rows].waits for wait in each])
            waits.plot(ordered, np.linspace(0, 100, len(ordered)), label=name, color=color)
        waits.set_xscale("log")
        waits.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
        waits.minorticks_off()
        waits.set_xlabel("wait on one connection, ms")
        waits.set_ylabel("% answered")
        waits.legend(loc="lower right", fontsize=8)
