"""What training costs on encrypted data: MLlib, XGBoost, LightGBM, scikit-learn and PyTorch, inside and outside.

The same program trains on the same real flights and weather of two owners, in a job and on plain Parquet with stock
libraries, turn about.
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
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Figure, Options, Report, progress

PROGRAMS = {"python": "_learning_python.py", "torch": "_learning_torch.py", "spark": "_learning_spark.py"}
ENGINES = {"python": "embedded", "torch": "torch", "spark": "spark"}
COLUMNS = {
    "flights": ("origin", "month", "day", "hour", "distance", "dep_delay"),
    "weather": ("origin", "month", "day", "hour", "temp", "wind_speed", "precip", "visib", "pressure"),
}
OWNERS = {"airline": "flights", "weather-office": "weather"}
GOAL = 1.10
_SECONDS = 900
_CLOSE = 1e-9  # relative; results are numbers that were added up in the same order

Trained = Mapping[str, tuple[float, float]]


def run(options: Options) -> Report:
    """Train inside and outside, turn about; return medians and whether both found the same."""
    rounds = 1 if options.quick else 3
    here = Path(__file__).parent
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    numbers: dict[tuple[str, str], float] = {}
    memory: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="strongroom-learning-") as place, _World(Path(place)) as world:
        for kind, name in PROGRAMS.items():
            for number in range(rounds + 1):  # the first fills the caches of both
                sides = ("inside", "plain") if number % 2 else ("plain", "inside")
                for side in sides:
                    progress(options, f"{kind}: round {number} of {rounds}, {side}")
                    work = world.train if side == "inside" else world.train_plain
                    trained, peak = work(here / name, kind)
                    memory[kind, side] = max(peak, memory.get((kind, side), 0.0))
                    for one, (took, found) in trained.items():
                        numbers[one, side] = found
                        if number:
                            seconds[one, side].append(took)
    names = [name for name, side in seconds if side == "plain"]
    ratios = {
        name: statistics.median(a / b for a, b in zip(seconds[name, "inside"], seconds[name, "plain"], strict=True))
        for name in names
    }
    same = {name: _is_close(numbers[name, "inside"], numbers[name, "plain"]) for name in names}
    figures = [
        *(Figure(name=f"{name}, inside / plain", value=ratios[name], unit="x", at_most=GOAL) for name in names),
        *(Figure(name=f"{name}, plain", value=statistics.median(seconds[name, "plain"]), unit="s") for name in names),
        *(Figure(name=f"{name}, inside", value=statistics.median(seconds[name, "inside"]), unit="s") for name in names),
        Figure(name="results that equal the plain run's", value=sum(same.values()), unit="", at_least=len(names)),
        *(
            Figure(name=f"memory of the {kind} program, {side}", value=peak, unit="MB")
            for (kind, side), peak in memory.items()
        ),
    ]
    return Report(
        name="learning",
        title="Training on two owners' encrypted data and on plain data",
        figures=figures,
        notes=[
            f"{rounds} rounds after one that warms up, inside and plain turn about; medians of the rounds' ratios",
            "real flights and weather of one year, joined inside; simulated TEE",
            "Spark: two executors of one core and 1 GB, in both; every other program: one process, one thread",
            "memory: the largest resident size of the Python process that runs the program",
            f"unequal: {', '.join(name for name in names if not same[name]) or 'none'}",
        ],
        draw=lambda canvas: _draw(canvas, {name: ratios[name] for name in names}),
    )


class _World:
    """Two owners with their data encrypted and registered, and the same data in plain Parquet."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._jobs = 0

    def __enter__(self) -> _World:
        import pyarrow.csv as pa_csv
        import pyarrow.parquet as pq

        from strongroom.demo.data import lay_out
        from strongroom.demo.world import World
        from strongroom.envelope.custody import create_custody

        self._world = world = World.build(self._place / "world", tables=OWNERS)
        self._tables = self._place / "tables"
        self._tables.mkdir()
        world.start_broker()
        world.enrol_everyone()
        here = Path(__file__).parent
        programs = [(here / name).read_bytes() for name in PROGRAMS.values()]
        for home in world.owners.values():
            source = lay_out(home.dataset, home.directory)
            plain = pa_csv.read_csv(source, convert_options=pa_csv.ConvertOptions(null_values=["", "NA"]))
            pq.write_table(plain, self._tables / f"{home.dataset}.parquet", compression="zstd")
            custody = create_custody(f"file:{home.directory / 'master.key'}", password=home.reveal_password)
            home.owner.encrypt(
                [source], home.encrypted, dataset=home.dataset, version=1, custody=custody, nulls=("", "NA")
            )
            text = world.policy_toml(home, programs=programs, sql=False).replace("lease = 2", "lease = 300")
            assert home.broker is not None
            home.owner.register(
                home.encrypted, broker=home.broker, policy=home.owner.permit(text), password=home.reveal_password
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._world.close()
        shutil.rmtree(self._place / "world", ignore_errors=True)

    def train(self, program: Path, kind: str) -> tuple[Trained, float]:
        """Run the program in a job."""
        world = self._world
        self._jobs += 1
        place = world.directory / "analyst" / f"learning-{self._jobs}"
        place.mkdir()
        shutil.copy(program, place / "program.py")
        text = world.job_toml(program="program.py", kind=kind, outputs=["trained"], columns=COLUMNS)
        if kind == "torch":
            text = text.replace("workers = 2", "workers = 1")
        (place / "job.toml").write_text(text)
        over, seen = threading.Event(), [0.0]
        watcher = threading.Thread(target=_watch, args=(kind, seen, over), daemon=True)
        watcher.start()
        try:
            with closing(world.analyst.attest_broker(world.broker_url)) as broker:
                report = world.analyst.run(
                    place / "job.toml",
                    broker=broker,
                    host=world.platform,
                    engine=ENGINES[kind],
                    directory=world.directory / "jobs" / str(self._jobs),
                )
                (output,) = report.outputs
                table = world.analyst.fetch(
                    broker=broker, digest=report.digest, output="trained", location=Path(output["directory"])
                )
        finally:
            over.set()
            watcher.join()
        return _by_name(table.to_pylist()), seen[0]

    def train_plain(self, program: Path, kind: str) -> tuple[Trained, float]:
        """Run the program outside."""
        command = [sys.executable, "-m", "benchmarks._plain_learning", str(program), str(self._tables), kind]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
        said = json.loads(done.stdout.strip().splitlines()[-1])
        return _by_name(said["rows"]), said["memory"]


def _by_name(rows: list[dict[str, Any]]) -> Trained:
    return {row["name"]: (row["seconds"], row["number"]) for row in rows}


def _is_close(inside: float, plain: float) -> bool:
    return abs(inside - plain) <= _CLOSE * max(abs(inside), abs(plain))


def _watch(kind: str, seen: list[float], over: threading.Event) -> None:
    """Keep the largest resident size of the process that runs the program: the job's driver, or its worker."""
    module = "strongroom.workload.worker" if kind == "torch" else "strongroom.workload.driver"
    while not over.wait(0.1):
        for child in psutil.Process().children(recursive=True):
            try:
                if module in child.cmdline():
                    seen[0] = max(seen[0], child.memory_info().rss / 1e6)
            except psutil.Error:
                continue


def _draw(canvas: Any, ratios: Mapping[str, float]) -> None:
    axes = canvas.subplots()
    places = range(len(ratios))
    axes.barh(places, list(ratios.values()), color="#4c72b0")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.axvline(GOAL, color="#c44e52", linestyle="--", linewidth=1, label=f"goal {GOAL:g}")
    axes.set_yticks(places, list(ratios))
    axes.invert_yaxis()
    axes.set_xlabel("time inside a job / time on plain data")
    canvas.legend(loc="outside upper right")
