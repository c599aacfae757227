"""Key release: what an attestation with release, and a release in a session, cost the broker; next to OpenBao transit.

Every release of the broker waits for a ledger entry on disk. OpenBao writes its file audit log, keeps its data in
memory and unwraps a key for whoever shows a token. What counts is the server's own CPU time per request at full load,
taken turn about with as many connections; waits are taken at half the requests per second that each served then.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks.harness import Figure, Options, Report, progress
from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerClient
from strongroom.broker.names import SESSION_HEADER
from strongroom.broker.requests import encode64
from strongroom.broker.seals import request_mac
from strongroom.digests import parse_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# The scene of the unit tests is the smallest honest broker there is: a real process, two owners, signed policies.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "broker"))
from scene import Scene

CONNECTIONS: Final = 8
FULL, SESSION, TRANSIT = "nonce + attest + release", "release in a session", "OpenBao transit decrypt, file audit"
FULL_GOAL, SESSION_GOAL = 700, 2000
Ask = Callable[[], None]


@dataclass
class Measured:
    """The server's CPU seconds per request and requests per second at full load, and waits at half load."""

    cpu: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def per_core(self) -> float:
        """Return how many requests one core serves in a second."""
        return 1 / statistics.median(self.cpu)


def run(options: Options) -> Report:
    """Serve all three in turn, several connections each, and report requests per second of server CPU."""
    rounds, seconds = (2, 1.0) if options.quick else (7, 3.0)
    found = {name: Measured() for name in (FULL, SESSION, TRANSIT)}
    with tempfile.TemporaryDirectory() as place, broker(Path(place)) as scene, openbao(Path(place)) as bao:
        works = {
            FULL: (scene.process.pid, full_asks(scene)),
            SESSION: (scene.process.pid, session_asks(scene)),
            **({TRANSIT: (bao.process.pid, bao.asks())} if bao else {}),
        }
        for number in range(rounds + 1):
            progress(options, f"round {number} of {rounds}")
            for name in list(works) if number % 2 else list(works)[::-1]:
                pid, asks = works[name]
                measure(found[name] if number else Measured(), pid, asks, seconds=seconds)
        progress(options, "waits at half load")
        for name, (_, asks) in works.items():
            pause = 2 * len(asks) / statistics.median(found[name].rates)
            found[name].waits += work_all(asks, seconds=2 * seconds, pause=pause)
        scene.client().export(Path(place) / "export")
    figures = [
        Figure(name=f"{FULL}, per core", value=found[FULL].per_core, unit="1/s", at_least=FULL_GOAL),
        Figure(name=f"{SESSION}, per core", value=found[SESSION].per_core, unit="1/s", at_least=SESSION_GOAL),
    ]
    if found[TRANSIT].cpu:
        ahead = found[SESSION].per_core / found[TRANSIT].per_core
        figures += [
            Figure(name=f"{TRANSIT}, per core", value=found[TRANSIT].per_core, unit="1/s"),
            Figure(name="release in a session against OpenBao transit", value=ahead, unit="times", at_least=1.0),
        ]
    for name, measured in found.items():
        if measured.waits:
            waits = statistics.quantiles(measured.waits, n=100)
            figures += [
                Figure(name=f"{name}, served", value=statistics.median(measured.rates), unit="1/s"),
                Figure(name=f"{name}, median wait at half load", value=waits[49] * 1000, unit="ms"),
                Figure(name=f"{name}, 99th percentile at half load", value=waits[98] * 1000, unit="ms"),
            ]
    notes = [
        f"{CONNECTIONS} connections kept alive, clients on the same machine; rates are per second of the server's CPU",
        "broker: TLS 1.3, two owners' policies and two datasets' keys per release",
        "broker: an answer waits until its ledger entry is on disk (SQLite WAL, synchronous=FULL, shared fsync)",
        "OpenBao: development server (data in memory), TLS 1.3, one key per request, file audit",
        "OpenBao: an answer waits until its audit line is written; that file is not synced to disk",
    ]
    return Report(name="release", title="Key release", figures=figures, notes=notes, draw=lambda c: draw(c, found))


def measure(into: Measured, pid: int, asks: Sequence[Ask], *, seconds: float) -> None:
    """Let every ask run as fast as it can for ``seconds`` and note what the server spent."""
    process = psutil.Process(pid)
    before, begun = process.cpu_times(), time.perf_counter()
    served = len(work_all(asks, seconds=seconds, pause=0.0))
    after = process.cpu_times()
    into.cpu.append((after.user + after.system - before.user - before.system) / served)
    into.rates.append(served / (time.perf_counter() - begun))


def work_all(asks: Sequence[Ask], *, seconds: float, pause: float) -> list[float]:
    """Let every ask run in its own thread, one begun every ``pause`` seconds, and return how long each waited.

    A wait begins when the request was due, so one that a slow answer holds up is not counted too short.
    """
    waits: list[float] = []
    failures: list[BaseException] = []
    start = time.perf_counter()

    def work(ask: Ask, due: float) -> None:
        try:
            while (now := time.perf_counter()) < start + seconds:
                if pause and now < due:
                    time.sleep(due - now)
                begun = due if pause else now
                ask()
                waits.append(time.perf_counter() - begun)
                due += pause
        except BaseException as error:
            failures.append(error)
            raise

    threads = [
        threading.Thread(target=work, args=(ask, start + pause * number / len(asks))) for number, ask in enumerate(asks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return waits


class Connection:
    """One kept TLS connection."""

    def __init__(self, port: int, context: ssl.SSLContext, *, name: str) -> None:
        self._http = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._http.sock = context.wrap_socket(plain, server_hostname=name)

    def post(self, path: str, body: bytes, **headers: str) -> dict[str, Any]:
        """Return the JSON answer; raise RuntimeError unless it is a 200."""
        self._http.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = self._http.getresponse()
        data = answer.read()
        if answer.status not in {http.client.OK, http.client.NO_CONTENT}:
            raise RuntimeError(f"{path}: {answer.status} {data[:300]!r}")
        return dict(json.loads(data or b"{}"))


def full_asks(scene: Scene) -> list[Ask]:
    """Return asks that each take a nonce, attest anew and release two datasets."""
    return [_full_ask(scene, scene.clients[0]) for _ in range(CONNECTIONS)]


def _full_ask(scene: Scene, client: BrokerClient) -> Ask:
    job, keys = scene.job(), WorkloadKeys.generate()
    ticket, tee = client.submit_job(job.statement), None
    tee = scene.tee("driver", job)
    line = Connection(scene.port, _pinned(client), name="broker.strongroom")
    peer = key_bundle_digest(client._public.tls_spki)
    body = json.dumps({"datasets": ["flights", "weather"]}).encode()

    def ask() -> None:
        nonce = base64.b64decode(line.post("/v1/nonce", b"{}")["nonce"])
        bound = report_data(
            role=Role.DRIVER,
            nonce=nonce,
            exporter=b"",
            own_key=keys.digest,
            peer_key=peer,
            job_digest=parse_text(job.digest),
        )
        shown = {
            "role": "driver",
            "nonce": encode64(nonce),
            "evidence": tee.evidence(bound).to_json(),
            "spki": encode64(keys.spki),
            "kem": encode64(keys.kem.public),
            "job": job.digest,
            "ticket": encode64(ticket.secret),
        }
        answer = line.post("/v1/attest", json.dumps(shown).encode())
        session = base64.b64decode(answer["session"])
        from strongroom.broker.seals import session_info

        info = session_info(session=session, nonce=nonce, job_digest=parse_text(job.digest))
        secret = keys.kem.open(base64.b64decode(answer["secret"]), info=info)
        line.post("/v1/release", body, **_proof(secret, session, 1, body))

    return ask


def session_asks(scene: Scene) -> list[Ask]:
    """Return asks that each release two datasets in a session that was attested before."""
    client = scene.clients[0]

    def one() -> Ask:
        job = scene.job()
        session = scene.driver(client, job, client.submit_job(job.statement))
        line = Connection(scene.port, _pinned(client), name="broker.strongroom")
        body = json.dumps({"datasets": ["flights", "weather"]}).encode()
        count = [0]

        def ask() -> None:
            count[0] += 1
            line.post("/v1/release", body, **_proof(session._secret, session._id, count[0], body))

        return ask

    return [one() for _ in range(CONNECTIONS)]


def _proof(secret: bytes, session: bytes, counter: int, body: bytes) -> dict[str, str]:
    proof = request_mac(secret, path="/v1/release", session=session, counter=counter, body=body)
    return {SESSION_HEADER: f"{encode64(session)}.{counter}.{encode64(proof)}"}


def _pinned(client: BrokerClient) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(client._line.certificate_der))
    return context


@contextmanager
def broker(place: Path) -> Iterator[Scene]:
    """Lend a broker with two registered datasets."""
    (place / "scene").mkdir()
    scene = Scene(place / "scene")
    try:
        scene.ready()
        yield scene
    finally:
        scene.close()


class Bao:
    """An OpenBao server with a transit key and a file audit device."""

    def __init__(self, program: str, place: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        settings = place / "audit.hcl"
        settings.write_text(
            f'audit "file" "requests" {{\n  options {{\n    file_path = "{place / "audit.log"}"\n  }}\n}}\n'
        )
        self.process = subprocess.Popen(
            [program, "server", "-dev", "-dev-tls", "-dev-root-token-id=root", "-dev-no-store-token",
             f"-dev-listen-address=127.0.0.1:{self.port}", f"-dev-tls-cert-dir={place}", f"-config={settings}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"HOME": str(place), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        self.audit = place / "audit.log"
        self.context = self._wait(place / "vault-ca.pem")
        line = self._line()
        line.post("/v1/sys/mounts/transit", b'{"type": "transit"}', **self._token)
        line.post("/v1/transit/keys/dataset", b"{}", **self._token)
        wrapped = line.post(
            "/v1/transit/encrypt/dataset", json.dumps({"plaintext": encode64(os.urandom(32))}).encode(), **self._token
        )
        self.body = json.dumps({"ciphertext": wrapped["data"]["ciphertext"]}).encode()
        if not self.audit.exists() or not self.audit.stat().st_size:
            raise RuntimeError("OpenBao writes no audit log")

    @property
    def _token(self) -> dict[str, str]:
        return {"X-Vault-Token": "root"}

    def asks(self) -> list[Ask]:
        """Return asks that each unwrap one key."""

        def one() -> Ask:
            line = self._line()
            return lambda: line.post("/v1/transit/decrypt/dataset", self.body, **self._token) and None

        return [one() for _ in range(CONNECTIONS)]

    def _line(self) -> Connection:
        return Connection(self.port, self.context, name="127.0.0.1")

    def _wait(self, ca: Path) -> ssl.SSLContext:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                context = ssl.create_default_context(cafile=str(ca))
                Connection(self.port, context, name="127.0.0.1")
            except (OSError, ssl.SSLError):
                time.sleep(0.1)
            else:
                return context
        raise TimeoutError("OpenBao did not start")


@contextmanager
def openbao(place: Path) -> Iterator[Bao | None]:
    """Lend an OpenBao server, or nothing where the program is not installed."""
    program = shutil.which("bao", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        yield None
        return
    (place / "bao").mkdir()
    server = Bao(program, place / "bao")
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=15)


def draw(canvas: Canvas, found: dict[str, Measured]) -> None:
    """Draw requests per second of server CPU."""
    axes = canvas.subplots()
    names = [name for name in found if found[name].cpu]
    axes.barh(names, [found[name].per_core for name in names], color=["#1f6f8b", "#1f6f8b", "#9aa5b1"][: len(names)])
    axes.set_xlabel("requests per second of server CPU")
    axes.set_title("Key release with a durable ledger")
