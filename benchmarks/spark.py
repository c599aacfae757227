"""Spark with every protection on against stock Spark on plain files: TPC-H, and lineitem written and scanned.

Protected means: encrypted tables with a key per column, keys asked from the agent, authenticated and AES-GCM encrypted
traffic, encrypted spill in memory, walled-in file system. Each side is a driver and two executors of one core.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks.harness import Cost, Figure, Options, Report, Runs, progress
from benchmarks.tpch import draw_queries, total_ratio
from benchmarks.warehouse import QUERIES, scratch, tpch_queries, tpch_source

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SIDES: Final = ("plain", "protected")
GOAL: Final = 1.10
QUICK_QUERIES: Final = (1, 3, 6, 12, 18)
SCANS: Final = {
    "full read": "SELECT bit_xor(xxhash64(*)) FROM lineitem",
    "one column": "SELECT bit_xor(xxhash64(l_extendedprice)) FROM lineitem",
}
SCAN_GOALS: Final = {"write": 1.10, "full read": 1.10, "one column": 1.20}
START_SECONDS, ANSWER_SECONDS = 300, 300


def run(options: Options) -> Report:
    """Start both clusters, run everything on both turn about, and report CPU seconds of all their processes."""
    scale, warm_up, rounds = (0.1, 1, 3) if options.quick else (1, 1, 3)
    numbers = QUICK_QUERIES if options.quick else tuple(QUERIES)
    texts = tpch_queries()
    requests: dict[str, dict[str, object]] = {str(number): {"sql": texts[number]} for number in numbers}
    requests |= {name: {"sql": text} for name, text in SCANS.items()} | {"write": {"write": 0}}
    costs: dict[str, dict[str, list[Cost]]] = {name: {side: [] for side in SIDES} for name in requests}
    tpch_source(scale)
    with scratch() as directory, started(SIDES, scale, directory, options) as sides:
        for turn in range(warm_up + rounds):
            for name, request in requests.items():
                order = sides if turn % 2 == 0 else sides[::-1]
                answers = {side.name: side.ask(request) for side in order}
                if len({answers[side]["digest"] for side in SIDES}) > 1:
                    raise AssertionError(f"{name}: plain and protected Spark disagree")
                took = ", ".join(f"{side} {answers[side]['cost'].cpu:.2f} s" for side in SIDES)
                label = f"query {name}" if name.isdigit() else name
                progress(options, f"round {turn + 1}{' (warm-up)' if turn < warm_up else ''}: {label}: {took}")
                for side in SIDES if turn >= warm_up else ():
                    costs[name][side].append(answers[side]["cost"])
    runs = {name: Runs(each) for name, each in costs.items()}
    queries = {number: runs[str(number)] for number in numbers}
    return report(queries, {name: runs[name] for name in SCAN_GOALS}, scale=scale, rounds=rounds, warm_up=warm_up)


def report(
    queries: Mapping[int, Runs], scans: Mapping[str, Runs], *, scale: float, rounds: int, warm_up: int
) -> Report:
    """Return totals, then each work."""
    figures = [
        Figure(name="TPC-H total, CPU, protected / plain", value=total(queries, "cpu"), unit="x", at_most=GOAL),
        Figure(name="TPC-H total, wall, protected / plain", value=total(queries, "wall"), unit="x"),
    ]
    for side in SIDES:
        figures.append(
            Figure(name=f"TPC-H total, CPU, {side}", value=sum(each.cpu(side) for each in queries.values()), unit="s")
        )
        figures.append(
            Figure(name=f"TPC-H total, wall, {side}", value=sum(each.wall(side) for each in queries.values()), unit="s")
        )
    figures += [
        Figure(
            name=f"lineitem, {name}, CPU, protected / plain",
            value=each.ratio("protected", to="plain"),
            unit="x",
            at_most=SCAN_GOALS[name],
        )
        for name, each in scans.items()
    ]
    figures += [
        Figure(name=f"query {number}, CPU, protected / plain", value=each.ratio("protected", to="plain"), unit="x")
        for number, each in queries.items()
    ]
    return Report(
        name="spark",
        title=f"Spark, every protection on, against stock Spark; scale factor {scale:g}",
        figures=figures,
        notes=[
            f"TPC-H queries {', '.join(map(str, queries))}" if len(queries) < len(QUERIES) else "all 22 TPC-H queries",
            f"scale factor {scale:g}; {warm_up} rounds of warm-up, then medians of {rounds} interleaved rounds",
            "CPU seconds of all processes of a side: Python, the driver's Java machine, two executors of one core",
            "both sides have the same collector, heaps and cores, and gave the same rows for every query",
        ],
        draw=lambda canvas: draw(canvas, queries, scale=scale),
        size=(9.5, 5.6),
    )


def total(queries: Mapping[int, Runs], clock: str) -> float:
    """Return the median ratio of whole rounds."""
    return total_ratio(queries, clock, side="protected")


def draw(canvas: Canvas, queries: Mapping[int, Runs], *, scale: float) -> None:
    """Draw the queries."""
    title = f"TPC-H at scale factor {scale:g}, Spark: every protection costs x{total(queries, 'cpu'):.2f}"
    draw_queries(canvas, queries, title=title, side="protected")


class Side:
    """One cluster in a process of its own, asked over its standard input."""

    def __init__(self, name: str, scale: float, directory: Path) -> None:
        self.name = name
        directory.mkdir()
        self._log = (directory / "log").open("wb")
        command = [sys.executable, "-m", "benchmarks._spark_side", name, str(scale), str(directory)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=Path(__file__).parents[1]
        )
        self._directory = directory

    def wait_ready(self) -> None:
        """Wait until the cluster is up."""
        self._receive(START_SECONDS)

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Return the answer with its cost: CPU of the whole tree of processes, and the wall seconds it reports."""
        before = self._cpu()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._receive(ANSWER_SECONDS)
        answer["cost"] = Cost(cpu=self._cpu() - before, wall=answer["wall"])
        return answer

    def stop(self) -> None:
        """End the cluster."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
            self._process.kill()
        self._log.close()

    def _receive(self, seconds: float) -> dict[str, Any]:
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], seconds)
        line = output.readline() if ready else b""
        if not line:
            tail = (self._directory / "log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} Spark gave no answer within {seconds:g} s:\n{tail}")
        return dict(json.loads(line))

    def _cpu(self) -> float:
        process = psutil.Process(self._process.pid)
        seconds = 0.0
        for each in (process, *process.children(recursive=True)):
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system
        return seconds


@contextmanager
def started(names: Sequence[str], scale: float, directory: Path, options: Options) -> Iterator[list[Side]]:
    """Start one cluster after the other; end them all."""
    sides: list[Side] = []
    try:
        for name in names:
            begun = time.perf_counter()
            sides.append(Side(name, scale, directory / name))
            sides[-1].wait_ready()
            progress(options, f"{name} Spark is up after {time.perf_counter() - begun:.0f} s, tables included")
        yield sides
    finally:
        for side in sides:
            side.stop()
