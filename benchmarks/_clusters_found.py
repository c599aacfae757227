"""What ``clusters`` measured, and its picture: one panel for each part that was measured."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks._admissions import AT_ONCE, Admissions
from benchmarks._kubernetes import Crowd
from benchmarks.harness import Runs

HOSTS = (1, 2)
SHUFFLES = ("9", "18", "21")


@dataclass(slots=True)
class Found:
    """What was measured: seconds by name and round, crowds, shuffles."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[int, float] = field(default_factory=dict)
    crowds: list[Admissions] = field(default_factory=list)
    pods: dict[int, tuple[Crowd, Crowd]] = field(default_factory=dict)  # with attestation, and without
    shuffles: Runs = field(default_factory=Runs)

    def median(self, name: str) -> float:
        """Return the median of the seconds called ``name``."""
        return statistics.median(self.seconds[name])


def draw(canvas: Any, found: Found) -> None:
    """Draw every part that was measured into an empty figure."""
    parts: dict[Callable[[Any, Found], None], bool] = {
        _draw_first: bool(found.seconds),
        _draw_arrivals: bool(found.pods),
        _draw_waits: bool(found.crowds),
        _draw_shuffles: bool(found.shuffles.costs),
    }
    drawn = [one for one, measured in parts.items() if measured]
    across = min(2, len(drawn))
    for number, one in enumerate(drawn):
        one(canvas.add_subplot((len(drawn) + across - 1) // across, across, number + 1), found)


def _draw_first(axes: Any, found: Found) -> None:
    rows = [
        (f"{n} lent host{'s' if n > 1 else ''}", f"{n} lent: first task", f"{n} plain")
        for n in HOSTS
        if f"{n} plain" in found.seconds
    ]
    rows += [(f"{n} pods", f"{n} pods", f"{n} bare") for n in found.memory]
    places = range(len(rows))
    ours = axes.barh([one + 0.2 for one in places], [found.median(name) for _, name, _ in rows], 0.38)
    bare = axes.barh([one - 0.2 for one in places], [found.median(name) for *_, name in rows], 0.38)
    for bars, named in ((ours, "Strongroom"), (bare, "without attestation")):
        bars.set_label(named)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set_yticks(list(places), [name for name, *_ in rows])
    axes.set_xlabel("seconds from submit to the end of the first task")
    axes.set_title("Spark really started")
    axes.legend(fontsize=8)


def _draw_arrivals(axes: Any, found: Found) -> None:
    for number, (size, crowds) in enumerate(found.pods.items()):
        for crowd, style, what in zip(crowds, ("-", ":"), ("admitted", "running, not attested"), strict=True):
            share = [100 * (arrived + 1) / crowd.workers for arrived in range(crowd.workers)]
            axes.plot(crowd.times, share, style, color=f"C{number}", label=f"{size:,} pods {what}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("seconds from submit")
    axes.set_ylabel("% of the workers")
    axes.set_title("Workers simulated on the double")
    axes.legend(fontsize=8)


def _draw_waits(axes: Any, found: Found) -> None:
    for crowd in found.crowds:
        share = [100 * (number + 1) / crowd.workers for number in range(crowd.workers)]
        axes.plot([1000 * one for one in crowd.waits], share, label=f"{crowd.workers:,} workers")
    axes.set_xlabel(f"milliseconds from knock to admission, {AT_ONCE} at a time")
    axes.set_ylabel("% of the workers")
    axes.set_title("One driver admits a crowd")
    axes.legend(fontsize=8)


def _draw_shuffles(axes: Any, found: Found) -> None:
    for number, (clock, ratio) in enumerate((("CPU", found.shuffles.ratio), ("wall", found.shuffles.wall_ratio))):
        values = [ratio(f"wire {query}", to=f"clear {query}") for query in SHUFFLES]
        bars = axes.bar([place + 0.4 * number - 0.2 for place in range(len(SHUFFLES))], values, 0.38, label=clock)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(SHUFFLES)), [f"query {query}" for query in SHUFFLES])
    axes.set_ylabel("encrypted wire / none")
    axes.set_title("TPC-H with the most shuffle")
    axes.margins(y=0.2)  # room for the legend
    axes.legend(loc="upper right", ncols=2, fontsize=8)
