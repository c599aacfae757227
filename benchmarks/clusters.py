"""Clusters: from submit to the first task, what admitting workers costs, and shuffles with encryption on and off.

The first task is placed on lent hosts beside stock Spark, and through the Kubernetes path beside pods that prove
nothing. Crowds of workers prove themselves to one real driver and start no Java. TPC-H's queries with the most shuffle
run on stock Spark with its connections encrypted and not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks._admissions import AT_ONCE, SLEEPER, Admissions, admit_crowd
from benchmarks._clusters_found import HOSTS, SHUFFLES, Found, draw
from benchmarks._kubernetes import place_attested, place_bare, place_crowd
from benchmarks.harness import Cost, Figure, Options, Report, Runs, load, progress

EXECUTORS = {2: 3, 10: 1}  # really started, and how often
CROWDS, QUICK_CROWDS = (100, 1000), (10, 50)
_PLAIN_SECONDS = 300
_MEMORY = "700m"
_SCALE = 0.3
_DATASET = "visits"
_STEPS = ("attest-driver", "attest-broker", "key-release", "attest-worker", "worker-keys", "spark-start")
PARTS = ("hosts", "pods", "pod-crowds", "crowds", "shuffles")
# When the first task was done leaves as the program's result: nothing else may say so.
_PROGRAM = """\
import time
from pyspark.sql import functions as F
from strongroom.workload import room

room.spark.range(1).count()
room.write(room.spark.range(1).select(F.lit(time.time()).alias("at")), "first")
"""


def run(options: Options) -> Report:
    """Measure each part that was chosen, turn about where two sides are compared, and return medians."""
    found, chosen = Found(), options.parts or PARTS
    if set(chosen) - {"shuffles"}:
        with _world() as place:
            if "hosts" in chosen:
                _place_on_hosts(place, found, options)
            if "pods" in chosen:
                _place_on_kubernetes(place, found, options)
            if "pod-crowds" in chosen:
                _place_crowds(place, found, options)
            if "crowds" in chosen:
                found.crowds = [place.admit(size, options) for size in _crowds(options)]
    if "shuffles" in chosen:
        found.shuffles = _shuffles(options)
    return Report(
        name="-".join(["clusters", *options.parts]),
        title="From submit to the first task, and what a cluster costs",
        figures=[*_place_figures(found), *_crowd_figures(found), *_shuffle_figures(found)],
        notes=_notes(found, options),
        draw=lambda canvas: draw(canvas, found),
        size=(11.0, 8.0) if len(chosen) > 1 else (9.0, 4.8),
    )


def _place_on_hosts(place: _Place, found: Found, options: Options) -> None:
    """Place jobs of one task on lent hosts and start stock Spark, turn about."""
    rounds = 1 if options.quick else 3
    for number in range(rounds):
        for hosts in HOSTS:
            progress(options, f"round {number + 1} of {rounds}: {hosts} lent")
            for name, value in place.first_task(hosts).items():
                found.seconds[f"{hosts} lent: {name}"].append(value)
            progress(options, f"round {number + 1} of {rounds}: stock Spark, {hosts} workers")
            found.seconds[f"{hosts} plain"].append(_plain(hosts))


def _place_on_kubernetes(place: _Place, found: Found, options: Options) -> None:
    """Place jobs through the API server, with attestation and as bare pods, turn about."""
    for executors, rounds in ({2: 1} if options.quick else EXECUTORS).items():
        for number in range(rounds):
            progress(options, f"Kubernetes, {executors} executors, round {number + 1} of {rounds}")
            attested = place_attested(place.world, executors, program=_PROGRAM, memory=_MEMORY)
            bare = place_bare(place.world, executors, memory=_MEMORY)
            found.seconds[f"{executors} pods"].append(attested.seconds)
            found.seconds[f"{executors} bare"].append(bare.seconds)
            for step, value in attested.steps.items():
                found.seconds[f"{executors} pods: {step}"].append(value)
            found.memory[executors] = max(attested.mebibytes, found.memory.get(executors, 0.0))


def _place_crowds(place: _Place, found: Found, options: Options) -> None:
    """Submit jobs that want crowds, whose pods only run, and whose pods prove themselves."""
    for size in _crowds(options):
        progress(options, f"Kubernetes, {size} workers that start no Java")
        bare, attested = (
            place_crowd(place.world, size, program=SLEEPER, attested=proving, tell=lambda text: progress(options, text))
            for proving in (False, True)
        )
        found.pods[size] = (attested, bare)


def _place_figures(found: Found) -> list[Figure]:
    figures = []
    for hosts in HOSTS if f"{HOSTS[0]} plain" in found.seconds else ():
        lent, plain = found.median(f"{hosts} lent: first task"), found.median(f"{hosts} plain")
        named = f"{hosts} host{'s' if hosts > 1 else ''}"
        figures += [
            Figure(name=f"submit to first task, {named}", value=lent, unit="s"),
            Figure(name=f"stock Spark to first task, {hosts} workers", value=plain, unit="s"),
            Figure(name=f"submit to first task / stock Spark, {named}", value=lent / plain, unit="x"),
            *(
                Figure(name=f"{named}: {step}", value=found.median(f"{hosts} lent: {step}"), unit="s")
                for step in _STEPS
            ),
        ]
    for executors, mebibytes in found.memory.items():
        pods, bare = found.median(f"{executors} pods"), found.median(f"{executors} bare")
        named = f"Kubernetes, {executors} executors"
        steps = [name for name in found.seconds if name.startswith(f"{executors} pods: ")]
        figures += [
            Figure(name=f"{named}: submit to first task", value=pods, unit="s"),
            Figure(name=f"{named}: the same Spark in pods that prove nothing", value=bare, unit="s"),
            Figure(name=f"{named}: attestation, keys and starting in turn add", value=pods - bare, unit="s"),
            *(Figure(name=f"{named}: {one.partition(': ')[2]}", value=found.median(one), unit="s") for one in steps),
            Figure(name=f"{named}: memory of all processes at most", value=mebibytes, unit="MiB"),
        ]
    return figures


def _crowd_figures(found: Found) -> list[Figure]:
    figures = []
    for crowd in found.crowds:
        named = f"{crowd.workers:,} workers"
        p99 = crowd.waits[int(0.99 * len(crowd.waits))]
        figures += [
            Figure(name=f"{named} admitted", value=crowd.seconds, unit="s"),
            Figure(name=f"{named}: admissions", value=crowd.workers / crowd.seconds, unit="/s"),
            Figure(name=f"{named}: p99 from knock to admission", value=p99, unit="s"),
            Figure(name=f"{named}: driver, each", value=1000 * crowd.driver_cpu / crowd.workers, unit="ms CPU"),
            Figure(name=f"{named}: broker, each", value=1000 * crowd.broker_cpu / crowd.workers, unit="ms CPU"),
            Figure(name=f"{named}: driver's memory gained", value=crowd.driver_mebibytes, unit="MiB"),
        ]
    for size, (attested, bare) in found.pods.items():
        named = f"Kubernetes, {size:,} workers simulated"
        figures += [
            Figure(name=f"{named}: submit to the last admission", value=attested.last, unit="s"),
            Figure(name=f"{named}: submit to the last pod that runs and proves nothing", value=bare.last, unit="s"),
            Figure(name=f"{named}: admissions", value=attested.rate, unit="/s"),
        ]
    return figures


def _shuffle_figures(found: Found) -> list[Figure]:
    figures = []
    runs = found.shuffles
    for query in SHUFFLES if runs.costs else ():
        sides = (f"wire {query}", f"clear {query}")
        for clock, spent, ratio in (("CPU", runs.cpu, runs.ratio), ("wall", runs.wall, runs.wall_ratio)):
            named = f"TPC-H query {query}, {clock}"
            figures += [
                Figure(name=f"{named}: encrypted wire", value=spent(sides[0]), unit="s"),
                Figure(name=f"{named}: no encryption", value=spent(sides[1]), unit="s"),
                Figure(name=f"{named}: encrypted wire / none", value=ratio(sides[0], to=sides[1]), unit="x"),
            ]
    return figures


def _notes(found: Found, options: Options) -> list[str]:
    scale, rounds = _extent(options)
    notes = [
        "medians where there are rounds, turn about; simulated TEE; everything on one machine",
        f"load at the end {load():.1f}, the benchmark's own included",
    ]
    if "1 plain" in found.seconds:
        notes += [
            f"lent hosts: {1 if options.quick else 3} rounds; agents on loopback addresses; a worker of a core each",
            "stock Spark: local-cluster with as many workers, from the start of Python, not attested, not protected",
        ]
    if found.memory or found.pods:
        notes += [
            f"Kubernetes: the double of the API server in tests/cluster, over TLS; rounds by executors: {EXECUTORS}",
            "pods that prove nothing run our own Spark, encrypted, and have no broker, no keys and no egress",
            "simulated workers are pods whose process is a thread: genuine simulated evidence, no Java",
        ]
    if found.crowds:
        largest, workers = found.crowds[-1], 1000
        driver, broker = (workers * spent / largest.workers for spent in (largest.driver_cpu, largest.broker_cpu))
        notes += [
            f"crowds: {AT_ONCE} workers knock at a time, from this machine, which pays for their side too; one round",
            "an admission is mutual attestation, a ruling by the owners' policies, and an entry in the ledger, synced",
            (
                f"100 nodes with 10 workers each, by these: admitting takes {driver:.0f} s of the driver's CPU, "
                f"{broker:.0f} s of the broker's, {workers * largest.seconds / largest.workers:.0f} s at the rate seen "
                "here, where workers, driver and broker share the cores"
            ),
        ]
    if found.shuffles.costs:
        notes.append(
            f"queries: scale {scale:g}, two executors of one core, the same collector; medians of {rounds} rounds"
        )
    return notes


class _Place:
    """A world with one small encrypted dataset, and agents that lend this machine under several addresses."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        from strongroom.demo.world import World
        from strongroom.parties.operator import Operator

        self.world = World.build(directory, tables={"clinic": _DATASET})
        stack.callback(self.world.close)
        self._jobs = directory / "jobs"
        self._jobs.mkdir()
        self._prepare()
        operator = Operator(self.world.platform)
        self._hosts = []
        for number in HOSTS:
            agent = operator.lend(
                admits=[self.world.analyst.key.party],
                jobs=self._jobs,
                directory=directory / f"agent-{number}",
                most=8,
            )
            stack.callback(agent.close)
            host, port = agent.listen((f"127.0.0.{number + 1}", 0))
            self._hosts.append({"address": f"{host}:{port}", "certificate": agent.certificate.digest})

    def _prepare(self) -> None:
        from strongroom.envelope.custody import create_custody

        world, (home,) = self.world, self.world.owners.values()
        source = home.directory / f"{_DATASET}.csv"
        source.write_text("visit,age\n" + "".join(f"{number},{number % 90}\n" for number in range(1000)))
        custody = create_custody(f"file:{home.directory / 'master.key'}", password=home.reveal_password)
        home.owner.encrypt([source], home.encrypted, dataset=_DATASET, version=1, custody=custody)
        world.start_broker()
        world.enrol_everyone()
        if home.broker is None:
            raise RuntimeError("the owner was just enrolled")
        programs = [_PROGRAM.encode(), SLEEPER.encode()]
        text = world.policy_toml(home, programs=programs).replace("lease = 2", "lease = 300")
        policy = home.owner.permit(text)
        home.owner.register(home.encrypted, broker=home.broker, policy=policy, password=home.reveal_password)

    def admit(self, workers: int, options: Options) -> Admissions:
        """Have a crowd of workers admitted by one driver."""
        directory = Path(tempfile.mkdtemp(dir=self._jobs))
        return admit_crowd(self.world, workers, directory=directory, tell=lambda text: progress(options, text))

    def first_task(self, hosts: int) -> dict[str, float]:
        """Return the seconds from submit to the end of the first task, and of the steps on the way."""
        from strongroom.jobs.launch.standalone import HostPool, HostSettings

        analyst, home = self.world.analyst, self.world.directory / "analyst"
        (home / "first.py").write_text(_PROGRAM)
        text = self.world.job_toml(program="first.py", kind="spark", outputs=["first"], columns={_DATASET: ["*"]})
        text = text.replace("workers = 2", f"workers = {hosts}").replace(
            'worker_memory = "1g"', 'worker_memory = "700m"'
        )
        (home / "first.toml").write_text(text)
        directory = Path(tempfile.mkdtemp(dir=self._jobs))
        settings = HostSettings.model_validate({"hosts": self._hosts[:hosts]})
        pool = HostPool(settings, key=analyst.key, directory=directory)
        with closing(analyst.attest_broker(self.world.broker_url)) as broker:
            started = time.time()
            report = analyst.run(home / "first.toml", broker=broker, host=pool, engine="spark", directory=directory)
            (output,) = report.outputs
            result = analyst.fetch(
                broker=broker, digest=report.digest, output="first", location=Path(output["directory"])
            )
        return {"first task": result.column("at")[0].as_py() - started, **{s: report.timings[s] for s in _STEPS}}


def _crowds(options: Options) -> tuple[int, ...]:
    return QUICK_CROWDS if options.quick else CROWDS


def _extent(options: Options) -> tuple[float, int]:
    """Return the scale of the queries, and the rounds after those of warm-up."""
    return (0.1, 1) if options.quick else (_SCALE, 9)


def _shuffles(options: Options) -> Runs:
    """Run the queries with the most shuffle on stock Spark, with its connections encrypted and not, turn about."""
    from benchmarks.spark import started
    from benchmarks.warehouse import scratch, tpch_queries, tpch_source

    texts, (scale, rounds), warm_up = tpch_queries(), _extent(options), 1 if options.quick else 2
    costs: dict[str, list[Cost]] = defaultdict(list)
    tpch_source(scale)
    with scratch() as directory, started(("clear", "wire"), scale, directory, options) as sides:
        for turn in range(warm_up + rounds):
            for query in SHUFFLES:
                answers = {}
                for side in sides if turn % 2 == 0 else sides[::-1]:
                    answers[side.name] = side.ask({"sql": texts[int(query)]})
                if len({answer["digest"] for answer in answers.values()}) > 1:
                    raise AssertionError(f"query {query}: the two disagree")
                took = ", ".join(f"{name} {answer['cost'].cpu:.1f} s" for name, answer in answers.items())
                progress(options, f"turn {turn + 1}: query {query}: {took}")
                for name, answer in answers.items() if turn >= warm_up else ():
                    costs[f"{name} {query}"].append(answer["cost"])
    return Runs(dict(costs))


@contextmanager
def _world() -> Iterator[_Place]:
    directory = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    try:
        with ExitStack() as stack:
            yield _Place(directory, stack)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _plain(workers: int) -> float:
    started = time.time()
    command = [sys.executable, "-m", "benchmarks._plain_cluster", str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PLAIN_SECONDS, check=True)
    return float(done.stdout.strip().splitlines()[-1]) - started
