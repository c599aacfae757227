"""Key release: what an attestation with release, and a release in a session, cost the broker; next to OpenBao transit.

Like is held against like: one dataset's key against one decrypt, and two owners' datasets, for which OpenBao's clients
ask twice since each owner has a transit key of its own. Every release of the broker waits for a ledger entry on disk.
OpenBao writes its file audit log, keeps its data in memory and unwraps a key for whoever shows a token. What counts is
the server's own CPU time at full load, taken turn about with as many connections; waits are taken at half the rate that
each served then. The servers run on one core and the clients, whose CPU time is not counted, on the others.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dcap_qvl
import psutil

from benchmarks._openbao import CONNECTIONS, Ask, Connection, openbao
from benchmarks.harness import Figure, Options, Report, apart, pin, progress
from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.evidence import Evidence, parse_quote
from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.quoting import sign_quote
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerClient
from strongroom.broker.names import SESSION_HEADER
from strongroom.broker.requests import encode64
from strongroom.broker.seals import ReleaseSeal, release_terms, request_mac, session_info
from strongroom.digests import parse_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# The scene of the unit tests is the smallest honest broker there is: a real process, two owners, signed policies.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit" / "broker"))
from scene import Scene

FULL = "attestation with release"
FIRST = "attestation with release, platform not seen before"
ONE, TWO = "release of one dataset", "release of two owners' datasets"
DECRYPT, DECRYPTS = "OpenBao transit, one decrypt", "OpenBao transit, two decrypts"
OURS = (FULL, FIRST, ONE, TWO)
KEYS: Final = 2048  # attestation keys that take turns: twice as many as a verifier remembers
FULL_GOAL, SESSION_GOAL = 700, 2000
_TURNS: Final = {keys: itertools.cycle(range(keys)) for keys in (1, KEYS)}  # which key signs next


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
    """Serve all in turn, several connections each, and report how many fit into a second of the server's CPU."""
    rounds, seconds = (2, 1.0) if options.quick else (7, 3.0)
    found = {name: Measured() for name in (*OURS, DECRYPT, DECRYPTS)}
    engine: list[float] = []
    with (
        tempfile.TemporaryDirectory() as place,
        apart() as core,
        broker(Path(place), core=core) as scene,
        openbao(Path(place), core=core) as bao,
    ):
        works: dict[str, tuple[int, Callable[[], list[Ask]]]] = {
            FULL: (scene.process.pid, lambda: full_asks(scene, keys=1)),
            FIRST: (scene.process.pid, lambda: full_asks(scene, keys=KEYS)),
            ONE: (scene.process.pid, lambda: session_asks(scene, "flights")),
            TWO: (scene.process.pid, lambda: session_asks(scene, "flights", "weather")),
        }
        if bao is not None:
            works[DECRYPT] = (bao.process.pid, lambda: bao.asks("airline"))
            works[DECRYPTS] = (bao.process.pid, lambda: bao.asks("airline", "weather"))
        for number in range(rounds + 1):
            progress(options, f"round {number} of {rounds}")
            engine.append(verify_alone(scene))
            for name in list(works) if number % 2 else list(works)[::-1]:
                pid, open_asks = works[name]  # anew each turn: neither connections nor sessions outlive a long wait
                measure(found[name] if number else Measured(), pid, open_asks(), seconds=seconds)
        progress(options, "waits at half load")
        for name, (_, open_asks) in works.items():
            asks = open_asks()
            pause = 2 * len(asks) / statistics.median(found[name].rates)
            found[name].waits += work_all(asks, seconds=2 * seconds, pause=pause)
        scene.client().export(Path(place) / "export")
    figures = [
        Figure(name=f"{FULL}, per core", value=found[FULL].per_core, unit="1/s", at_least=FULL_GOAL),
        Figure(name=f"{FIRST}, per core", value=found[FIRST].per_core, unit="1/s"),
        Figure(name=f"{ONE}, per core", value=found[ONE].per_core, unit="1/s"),
        Figure(name=f"{TWO}, per core", value=found[TWO].per_core, unit="1/s", at_least=SESSION_GOAL),
    ]
    for ours, theirs, against in ((ONE, DECRYPT, "one decrypt"), (TWO, DECRYPTS, "two decrypts")):
        if found[theirs].cpu:
            ahead = statistics.median(b / a for a, b in zip(found[ours].cpu, found[theirs].cpu, strict=True))
            figures += [
                Figure(name=f"{theirs}, per core", value=found[theirs].per_core, unit="1/s"),
                Figure(name=f"{ours} against {against}", value=ahead, unit="times", at_least=1.0),
            ]
    alone = statistics.median(engine)
    figures += [
        Figure(name="dcap-qvl's verification of one quote, alone", value=1000 * alone, unit="ms"),
        Figure(name=f"{FIRST}, of it dcap-qvl", value=alone / statistics.median(found[FIRST].cpu), unit="of the CPU"),
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
        f"{CONNECTIONS} connections kept alive; the server on one core, the clients on the others",
        "rates are requests per second of the server's CPU time",
        "attestation with release: two requests, a nonce and the evidence that asks for the keys",
        f"{FULL}: jobs whose drivers run on a platform that the broker verified within the hour",
        f"{FIRST}: {KEYS} attestation keys take turns, so that every quote is verified whole",
        "attestation with release: two owners' datasets; the client makes its evidence within the wait",
        "releases: in a session that was attested before, one request each; two transit keys take two requests",
        "all over TLS 1.3; every owner's policy is asked at each of the broker's releases",
        "broker: an answer waits until its ledger entry is on disk (SQLite WAL, synchronous=FULL, shared fsync)",
        "OpenBao: development server (data in memory), file audit on",
        "OpenBao: an answer waits until its audit line is written; that file is not synced to disk",
    ]
    return Report(
        name="release", title="Key release", figures=figures, notes=notes, draw=lambda c: draw(c, found, alone)
    )


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


def full_asks(scene: Scene, *, keys: int) -> list[Ask]:
    """Return asks that each take a nonce, attest anew and are released two datasets.

    ``keys``: so many attestation keys sign the quotes in turn; more than a verifier remembers make each a new one.
    """
    return [_full_ask(scene, scene.clients[0], _TURNS[keys]) for _ in range(CONNECTIONS)]


def _full_ask(scene: Scene, client: BrokerClient, turns: Iterator[int]) -> Ask:
    job, keys = scene.job(), WorkloadKeys.generate()
    ticket, tee = client.submit_job(job.statement), None
    tee = scene.tee("driver", job)
    line = Connection(scene.port, _pinned(client), name="broker.strongroom")
    peer = key_bundle_digest(client._public.tls_spki)

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
            "evidence": _renewed(scene, tee.evidence(bound), next(turns)).to_json(),
            "spki": encode64(keys.spki),
            "kem": encode64(keys.kem.public),
            "job": job.digest,
            "ticket": encode64(ticket.secret),
            "datasets": ["flights", "weather"],
        }
        answer = line.post("/v1/attest", json.dumps(shown).encode())
        session = base64.b64decode(answer["session"])
        info = session_info(session=session, nonce=nonce, job_digest=parse_text(job.digest))
        secret = keys.kem.open(base64.b64decode(answer["secret"]), info=info)
        sealed = base64.b64decode(answer["release"]["sealed"])
        ReleaseSeal(secret, session=session).open(sealed, counter=1, terms=_terms(job.digest, answer["release"]))

    return ask


def _renewed(scene: Scene, evidence: Evidence, generation: int) -> Evidence:
    """Return the evidence as the platform makes it after it renewed its attestation key ``generation`` times."""
    signed = parse_quote(evidence.quote).signed
    quote = sign_quote(scene.platform._vendor, evidence.tee, signed, generation=generation)
    return dataclasses.replace(evidence, quote=quote)


def session_asks(scene: Scene, *datasets: str) -> list[Ask]:
    """Return asks that each release ``datasets``, all that the job reads, in a session that was attested before."""
    client, owners = scene.clients[0], {"flights": scene.airline, "weather": scene.weather}

    def one() -> Ask:
        job = scene.job(inputs={name: owners[name] for name in datasets})
        session = scene.driver(client, job, client.submit_job(job.statement))
        line = Connection(scene.port, _pinned(client), name="broker.strongroom")
        body = json.dumps({"datasets": datasets}).encode()
        count = [0]

        def ask() -> None:
            count[0] += 1
            line.post("/v1/release", body, **_proof(session._secret, session._id, count[0], body))

        return ask

    return [one() for _ in range(CONNECTIONS)]


def _terms(job_digest: str, answer: dict[str, Any]) -> bytes:
    granted = [(str(name), int(version), str(digest)) for name, version, digest in answer["datasets"]]
    return release_terms(
        job_digest=parse_text(job_digest), datasets=granted, policy_digest=str(answer["policy_digest"])
    )


def _proof(secret: bytes, session: bytes, counter: int, body: bytes) -> dict[str, str]:
    proof = request_mac(secret, path="/v1/release", session=session, counter=counter, body=body)
    return {SESSION_HEADER: f"{encode64(session)}.{counter}.{encode64(proof)}"}


def _pinned(client: BrokerClient) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(client._line.certificate_der))
    return context


def verify_alone(scene: Scene) -> float:
    """Return the CPU seconds of one call of dcap-qvl on evidence as the broker gets it: the least of its share."""
    evidence, now = scene.tee("driver", scene.job()).evidence(bytes(64)), int(time.time())
    collateral = dcap_qvl.QuoteCollateralV3.from_json(scene.platform.collateral_json())
    verifier, policy = dcap_qvl.QuoteVerifier(scene.platform.root_der), dcap_qvl.QuotePolicy.claims_only(now)
    begun, calls = time.thread_time(), 100
    for _ in range(calls):
        verifier.verify_with_policy(evidence.quote, collateral, now, policy)
    return (time.thread_time() - begun) / calls


@contextmanager
def broker(place: Path, *, core: set[int]) -> Iterator[Scene]:
    """Lend a broker with two registered datasets on ``core``."""
    (place / "scene").mkdir()
    scene = Scene(place / "scene")
    try:
        scene.ready()
        pin(scene.process.pid, core)
        yield scene
    finally:
        scene.close()


def draw(canvas: Canvas, found: dict[str, Measured], alone: float) -> None:
    """Draw what a request costs the server's core, and how long its caller waits."""
    names = [name for name in found if found[name].cpu][::-1]
    labels = [
        name.replace("transit, ", "transit,\n").replace(" of two", "\nof two").replace(", platform", ",\nplatform")
        for name in names
    ]
    colors = ["#1f6f8b" if name in OURS else "#9aa5b1" for name in names]
    left, right = canvas.subplots(1, 2, sharey=True)
    cost = [1000 * statistics.median(found[name].cpu) for name in names]
    bars = left.barh(labels, cost, color=colors, height=0.5)
    left.bar_label(
        bars,
        [f"{one:.2f} ms = {1000 / one:,.0f}/s" for one in cost],
        padding=4,
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    if FIRST in names:
        left.barh(
            labels[names.index(FIRST)], 1000 * alone, color="#e0a458", height=0.5, label="of it dcap-qvl's verification"
        )
    for name, goal in ((FULL, FULL_GOAL), (TWO, SESSION_GOAL)):
        at = names.index(name)
        left.vlines(1000 / goal, at - 0.35, at + 0.35, color="#b23a48", label="goal" if name == FULL else None)
    left.set_xlim(0, 1.5 * max(cost))
    left.set_xlabel("CPU of the server per request, ms")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, fontsize=8)
    left.set_title("Key release with a durable ledger")
    for at, name in enumerate(names):
        waits = statistics.quantiles(found[name].waits, n=100)
        right.plot([1000 * waits[49], 1000 * waits[98]], [at, at], color=colors[at], linewidth=2)
        right.plot(1000 * waits[49], at, "o", color=colors[at], label="median" if at == 0 else None)
        right.plot(
            1000 * waits[98], at, "|", color=colors[at], markersize=16, label="99th percentile" if at == 0 else None
        )
    right.set_xscale("log")
    right.set_xlabel("wait at half load, ms")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, fontsize=8)
