"""Clusters: from submit to the first task, what admitting workers costs, and shuffles with encryption on and off.

The first task is placed on one and two lent hosts, beside stock Spark. Crowds of workers prove themselves to one real
driver and start no Java. TPC-H's queries with the most shuffle run protected and on stock Spark, turn about.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks._admissions import AT_ONCE, SLEEPER, Admissions, admit_crowd
from benchmarks.harness import Cost, Figure, Options, Report, Runs, progress

HOSTS = (1, 2)
CROWDS, QUICK_CROWDS = (10, 100, 1000), (10, 50)
SHUFFLES = ("5", "9", "18", "21")
_PLAIN_SECONDS = 300
_SCALE = 0.1
_DATASET = "visits"
_STEPS = ("attest-driver", "attest-broker", "key-release", "attest-worker", "worker-keys", "spark-start")
# When the first task was done leaves as the program's result: nothing else may say so.
_PROGRAM = """\
import time
from pyspark.sql import functions as F
from strongroom.workload import room

room.spark.range(1).count()
room.write(room.spark.range(1).select(F.lit(time.time()).alias("at")), "first")
"""


def run(options: Options) -> Report:
    """Place jobs of one task on lent hosts and start stock Spark, turn about; return medians."""
    rounds = 1 if options.quick else 3
    seconds: dict[str, list[float]] = defaultdict(list)
    with _world() as place:
        for number in range(rounds):
            for hosts in HOSTS:
                progress(options, f"round {number + 1} of {rounds}: {hosts} lent")
                for name, value in place.first_task(hosts).items():
                    seconds[f"{hosts} lent: {name}"].append(value)
                progress(options, f"round {number + 1} of {rounds}: stock Spark, {hosts} workers")
                seconds[f"{hosts} plain"].append(_plain(hosts))
        crowds = [place.admit(size, options) for size in (QUICK_CROWDS if options.quick else CROWDS)]
    shuffles = _shuffles(options)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    figures = []
    for hosts in HOSTS:
        lent, plain = median[f"{hosts} lent: first task"], median[f"{hosts} plain"]
        named = f"{hosts} host{'s' if hosts > 1 else ''}"
        figures += [
            Figure(name=f"submit to first task, {named}", value=lent, unit="s"),
            Figure(name=f"stock Spark to first task, {hosts} workers", value=plain, unit="s"),
            Figure(name=f"submit to first task / stock Spark, {named}", value=lent / plain, unit="x"),
            *(Figure(name=f"{named}: {step}", value=median[f"{hosts} lent: {step}"], unit="s") for step in _STEPS),
        ]
    for crowd in crowds:
        named = f"{crowd.workers:,} workers"
        p99 = crowd.waits[int(0.99 * len(crowd.waits))]
        figures += [
            Figure(name=f"{named} admitted", value=crowd.seconds, unit="s"),
            Figure(name=f"{named}: p99 from knock to admission", value=p99, unit="s"),
            Figure(name=f"{named}: driver, each", value=1000 * crowd.driver_cpu / crowd.workers, unit="ms CPU"),
            Figure(name=f"{named}: broker, each", value=1000 * crowd.broker_cpu / crowd.workers, unit="ms CPU"),
            Figure(name=f"{named}: driver's memory gained", value=crowd.driver_mebibytes, unit="MiB"),
        ]
    for query in SHUFFLES:
        ratio = shuffles.wall_ratio(f"protected {query}", to=f"plain {query}")
        figures.append(Figure(name=f"TPC-H query {query}: protected / stock Spark", value=ratio, unit="x"))
    notes = [
        f"{rounds} rounds, turn about; medians; simulated TEE; hosts are agents on loopback addresses of one machine",
        "one worker with one core a host; the driver is on the first host",
        "stock Spark: local-cluster with as many workers, from the start of Python, no attestation and no protection",
        f"crowds: {AT_ONCE} workers knock at a time, from this process on the same machine; one round",
        "each admission is mutual attestation, a ruling by the owners' policies, and an entry in the ledger, synced",
        f"queries: scale {_SCALE}, two executors of one core, 8 partitions; one run, turn about, by wall time",
    ]
    return Report(
        name="clusters",
        title="From submit to the first task",
        figures=figures,
        notes=notes,
        draw=lambda canvas: _draw(canvas, median),
    )


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


def _shuffles(options: Options) -> Runs:
    """Run the queries with the most shuffle on stock Spark and protected, turn about."""
    from benchmarks.spark import SIDES, started
    from benchmarks.warehouse import scratch, tpch_queries, tpch_source

    texts, warm_up, rounds = tpch_queries(), 1, 1 if options.quick else 5
    costs: dict[str, list[Cost]] = defaultdict(list)
    tpch_source(_SCALE)
    with scratch() as directory, started(SIDES, _SCALE, directory, options) as sides:
        for turn in range(warm_up + rounds):
            for query in SHUFFLES:
                answers = {}
                for side in sides if turn % 2 == 0 else sides[::-1]:
                    answers[side.name] = side.ask({"sql": texts[int(query)]})
                if len({answer["digest"] for answer in answers.values()}) > 1:
                    raise AssertionError(f"query {query}: plain and protected Spark disagree")
                progress(options, f"turn {turn + 1}: query {query}")
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


def _draw(canvas: object, median: dict[str, float]) -> None:
    axes = canvas.add_subplot()  # type: ignore[attr-defined]
    places = range(len(HOSTS))
    lent = [median[f"{hosts} lent: first task"] for hosts in HOSTS]
    axes.bar([place - 0.2 for place in places], lent, 0.4, label="Strongroom, lent hosts")
    axes.bar([place + 0.2 for place in places], [median[f"{hosts} plain"] for hosts in HOSTS], 0.4, label="stock Spark")
    axes.set_xticks(list(places), [f"{hosts} worker{'s' if hosts > 1 else ''}" for hosts in HOSTS])
    axes.set_ylabel("seconds to the end of the first task")
    axes.legend()
