"""Run pairs of works interleaved, keep CPU and wall seconds, and publish figures as table, JSON and plot.

Machines are shared and clocks drift, so no two numbers are compared unless they were taken in the same round, turn
about. CPU seconds cover this process and every process below it; they hold still when wall time does not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console
from rich.table import Table

OUTPUT: Final = Path(__file__).parents[1] / "out" / "benchmarks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the person running a benchmark chose; ``say`` tells them how far it is. No ``parts`` are all of them."""

    quick: bool
    say: Callable[[str], None]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one piece of work took, in seconds."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number; ``at_most`` or ``at_least`` is its goal, if it has one."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def goal(self) -> str | None:
        """Return the goal as people write it."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return None if self.at_least is None else f">= {self.at_least:g}"

    @property
    def met(self) -> bool | None:
        """Return whether the goal was met; None where there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one benchmark found; ``draw`` puts its picture into an empty matplotlib figure."""

    name: str
    title: str
    figures: Sequence[Figure]
    notes: Sequence[str]
    draw: Callable[[object], None]
    size: tuple[float, float] = (9.0, 4.8)  # inches


@dataclass(frozen=True, slots=True)
class Runs:
    """The costs of every work, round by round."""

    costs: Mapping[str, Sequence[Cost]] = field(default_factory=dict)

    def cpu(self, name: str) -> float:
        """Return the median CPU seconds of one work."""
        return statistics.median(cost.cpu for cost in self.costs[name])

    def wall(self, name: str) -> float:
        """Return the median wall seconds of one work."""
        return statistics.median(cost.wall for cost in self.costs[name])

    def ratio(self, name: str, *, to: str) -> float:
        """Return the median over rounds of CPU seconds of ``name`` per CPU second of ``to``."""
        return statistics.median(a.cpu / b.cpu for a, b in zip(self.costs[name], self.costs[to], strict=True))

    def wall_ratio(self, name: str, *, to: str) -> float:
        """Return the same of wall seconds."""
        return statistics.median(a.wall / b.wall for a, b in zip(self.costs[name], self.costs[to], strict=True))


def interleave(
    works: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    tidy: Callable[[], object] = lambda: None,
) -> Runs:
    """Run every work once a round, in alternating order, and return their costs without the warm-up.

    ``tidy`` runs before each work and is not counted.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for number in range(warm_up + rounds):
        order = list(works) if number % 2 == 0 else list(works)[::-1]
        for name in order:
            tidy()
            cost = spend(works[name])
            if number >= warm_up:
                costs[name].append(cost)
    return Runs(costs)


def spend(work: Callable[[], object]) -> Cost:
    """Run one work and return what it cost, processes below this one included."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = work()
    cost = Cost(cpu=cpu_seconds() - cpu, wall=time.perf_counter() - wall)
    del result  # freeing the result is not part of the work
    return cost


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, its ended children and every process now below it."""
    total = time.process_time()
    ended = os.times()
    total += ended.children_user + ended.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def apart() -> Iterator[set[int]]:
    """Keep this process, the clients, off one core while the block lasts; lend that core to the server under test.

    Where there is one core only, both share it.
    """
    cores = os.sched_getaffinity(0)
    core = {min(cores)}
    os.sched_setaffinity(0, cores - core or cores)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, cores)


def pin(pid: int, core: set[int]) -> None:
    """Let every thread of a process run on ``core``."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), core)


def machine() -> str:
    """Describe where the figures were taken."""
    model = platform.processor() or platform.machine()
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        model = next(
            (
                line.partition(":")[2].strip()
                for line in listing.read_text().splitlines()
                if line.startswith("model name")
            ),
            model,
        )
    cores = len(os.sched_getaffinity(0))
    gigabytes = psutil.virtual_memory().total / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "duckdb", "cryptography"))
    return (
        f"{model}, {cores} cores, {gigabytes:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {libraries}"
    )


def load() -> float:
    """Return how many processes wanted a core over the last minute."""
    return os.getloadavg()[0]


def publish(report: Report, *, directory: Path, json_file: Path | None) -> None:
    """Print the figures; write them as JSON and plot into ``directory``, and as JSON to ``json_file``."""
    directory.mkdir(parents=True, exist_ok=True)
    document = json.dumps(as_document(report), indent=2) + "\n"
    for target in [directory / f"{report.name}.json", *([json_file] if json_file else [])]:
        _write(target, document)
    _plot(report, directory / f"{report.name}.png")
    console = Console()
    table = Table(title=report.title, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("goal", justify="right")
    table.add_column("met", justify="center")
    for figure in report.figures:
        met = "" if figure.met is None else "[green]yes[/]" if figure.met else "[red]no[/]"
        table.add_row(figure.name, f"{figure.value:,.3g}", figure.unit, figure.goal or "", met)
    console.print(table)
    for note in report.notes:
        console.print(f"- {note}", highlight=False)
    console.print(f"- {machine()}", highlight=False)
    console.print(f"- plot: {directory / (report.name + '.png')}", highlight=False)


def as_document(report: Report) -> dict[str, object]:
    """Return the report as it is written to JSON."""
    figures = [
        {"name": each.name, "value": round(each.value, 4), "unit": each.unit, "goal": each.goal, "met": each.met}
        for each in report.figures
    ]
    return {"name": report.name, "machine": machine(), "figures": figures, "notes": list(report.notes)}


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text)
    partial.replace(target)


def _plot(report: Report, target: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlesize": 11,
        "figure.dpi": 150,
        "legend.frameon": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.8,
    }
    with mpl.rc_context(style):
        canvas = plt.figure(figsize=report.size, layout="constrained")
        report.draw(canvas)
        canvas.savefig(target)
        plt.close(canvas)


def progress(options: Options, text: str) -> None:
    """Tell the person how far the benchmark is, with the load of the machine."""
    options.say(f"[dim]{time.strftime('%H:%M:%S')} load {load():.1f}[/] {text}")
