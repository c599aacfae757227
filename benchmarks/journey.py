"""The whole journey: seconds of each step that Strongroom adds, beside the same program on plain Parquet and stock
Spark.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Figure, Options, Report, progress

ADDED = ("attest-driver", "attest-broker", "key-release", "attest-worker", "worker-keys", "egress")
AROUND = ("encrypt", "broker-start", "enrol", "submit", "launch-driver", "fetch", "audit")
_PLAIN_SECONDS = 600


def run(options: Options) -> Report:
    """Tell the story and the plain run turn about; return medians."""
    rounds = 1 if options.quick else 3
    steps: dict[str, list[float]] = defaultdict(list)
    plain: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, float] = {}
    for number in range(rounds):
        progress(options, f"round {number + 1} of {rounds}: with Strongroom")
        for name, seconds in _story(memory).items():
            steps[name].append(seconds)
        progress(options, f"round {number + 1} of {rounds}: plain Spark")
        for name, seconds in _plain().items():
            plain[name].append(seconds)
    median = {name: statistics.median(values) for name, values in steps.items()}
    bare = {name: statistics.median(values) for name, values in plain.items()}
    added = statistics.median(sum(values) for values in zip(*(steps[name] for name in ADDED), strict=True))
    figures = [
        Figure(name="added: attestation, key release and egress together", value=added, unit="s", at_most=1.0),
        *(Figure(name=f"added: {name}", value=median[name], unit="s") for name in ADDED),
        *(Figure(name=f"around: {name}", value=median[name], unit="s") for name in AROUND if name in median),
        Figure(name="Spark start, Strongroom", value=median["spark-start"], unit="s"),
        Figure(name="Spark start, plain", value=bare["spark-start"], unit="s"),
        Figure(name="program, Strongroom", value=median["program"], unit="s"),
        Figure(name="program, plain", value=bare["program"], unit="s"),
        Figure(name="program, Strongroom / plain", value=median["program"] / bare["program"], unit="x"),
        *(Figure(name=f"memory: {role}", value=megabytes, unit="MB") for role, megabytes in sorted(memory.items())),
    ]
    notes = [
        f"{rounds} rounds, Strongroom and plain turn about; medians; simulated TEE",
        "plain: the same program on plain Parquet, stock Spark local-cluster with two executors, no protection",
        "attest-worker and worker-keys are sums over both workers, which in truth run at the same time",
        "plain Spark also starts a master and two worker daemons; memory is the largest resident size seen",
    ]
    return Report(
        name="journey",
        title="The journey of one job, three owners, two workers",
        figures=figures,
        notes=notes,
        draw=lambda canvas: _draw(canvas, median, bare),
        size=(9.0, 5.2),
    )


class _Silent:
    @contextmanager
    def step(self, _number: int, _title: str) -> Iterator[None]:
        yield

    def note(self, _text: str) -> None:
        pass

    def progress(self, _name: str, _done: int, _total: int) -> None:
        pass


def _story(memory: dict[str, float]) -> dict[str, float]:
    from strongroom.demo.data import OWNERS
    from strongroom.demo.story import Story
    from strongroom.demo.world import World

    place = Path(tempfile.mkdtemp(prefix="strongroom-bench-"))
    world = World.build(place, tables=OWNERS)
    over = threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(memory, over), daemon=True)
    watcher.start()
    try:
        story = Story(world=world, engine="spark", narrator=_Silent())
        story.tell()
        return {step.name: step.seconds for step in story.steps}
    finally:
        over.set()
        watcher.join()
        world.close()
        shutil.rmtree(place, ignore_errors=True)


def _plain() -> dict[str, float]:
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    from strongroom.demo.data import OWNERS, lay_out
    from strongroom.demo.world import PROGRAMS

    with tempfile.TemporaryDirectory(prefix="strongroom-plain-") as place:
        tables = Path(place) / "tables"
        tables.mkdir()
        for table in OWNERS.values():
            source = lay_out(table, Path(place))
            pq.write_table(pa_csv.read_csv(source), tables / f"{table}.parquet", compression="zstd")
        command = [
            sys.executable,
            "-m",
            "benchmarks._plain_journey",
            PROGRAMS / "delays.py",
            tables,
            Path(place) / "out",
        ]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=_PLAIN_SECONDS, check=True
        )
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _watch_memory(memory: dict[str, float], over: threading.Event) -> None:
    """Keep the largest resident size of each role's Python process and of the Java machine below it."""
    while not over.wait(0.25):
        for child in psutil.Process().children(recursive=True):
            try:
                command, size = child.cmdline(), child.memory_info().rss / 1e6
            except psutil.Error:
                continue
            role = _role(command)
            if role:
                memory[role] = max(memory.get(role, 0.0), size)


def _role(command: list[str]) -> str:
    text = " ".join(command)
    if "strongroom.spark.DriverMain" in text:
        return "driver, Java"
    if "strongroom.spark.ExecutorMain" in text:
        return "worker, Java"
    names = {"broker": "broker", "workload.driver": "driver", "workload.worker": "worker", "egress": "egress"}
    return next((role for entry, role in names.items() if f"strongroom.{entry}" in command), "")


def _draw(canvas: Any, steps: dict[str, float], plain: dict[str, float]) -> None:
    added, whole = canvas.subplots(1, 2, width_ratios=(1.2, 1))
    places = range(len(ADDED))
    added.barh(places, [1000 * steps[name] for name in ADDED], color="#4c72b0")
    added.set_yticks(places, ADDED)
    added.invert_yaxis()
    added.set_xlabel("milliseconds")
    added.set_title("What Strongroom adds to a job")
    for place, name in zip(places, ADDED, strict=True):
        added.text(1000 * steps[name], place, f" {1000 * steps[name]:.0f}", va="center")
    total = sum(steps[name] for name in ADDED)
    parts = (("Spark start", "spark-start", "#dd8452"), ("program", "program", "#55a868"))
    for column, (title, times) in enumerate((("plain", plain), ("Strongroom", steps))):
        height = 0.0
        for label, name, colour in parts:
            whole.bar(column, times[name], bottom=height, color=colour, label=label if column == 0 else None, width=0.6)
            height += times[name]
        if title == "Strongroom":
            whole.bar(column, total, bottom=height, color="#4c72b0", label="added steps", width=0.6)
            height += total
        whole.text(column, height, f"{height:.1f} s", ha="center", va="bottom")
    whole.set_xticks([0, 1], ["plain", "Strongroom"])
    whole.set_ylabel("seconds")
    whole.set_title("The job as a whole")
    whole.set_ylim(0, 1.3 * max(sum(times[name] for _, name, _ in parts) for times in (plain, steps)))
    whole.legend(loc="upper center", ncols=3, fontsize=8, columnspacing=1.2)  # within the axes
