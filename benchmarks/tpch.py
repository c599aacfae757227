"""TPC-H, all 22 queries: the same engine on encrypted and on plain tables.

Both sides take one code path (``EmbeddedEngine`` over ``pyarrow.dataset``) on files of one layout: the same codec, row
groups and pages. Every answer is checked against the published one before it counts.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from benchmarks.harness import Figure, Options, Report, Runs, interleave, progress
from benchmarks.warehouse import QUERIES, open_encrypted, open_plain, scratch, tpch_answers, tpch_queries
from strongroom.workload.embedded import EmbeddedEngine

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

GOAL: Final = 1.10
PLAIN_COLOUR, ENCRYPTED_COLOUR, GOAL_COLOUR = "#9aa5b1", "#1f6f8b", "#c8553d"


def run(options: Options) -> Report:
    """Run every query on both sides, turn about, and report CPU seconds and their ratios."""
    scale, rounds = (0.1, 3) if options.quick else (1, 7)
    queries, answers = tpch_queries(), tpch_answers(scale)
    runs: dict[int, Runs] = {}
    with scratch() as directory:
        progress(options, f"preparing the tables at scale factor {scale:g}, plain and encrypted")
        plain, encrypted = open_plain(scale, directory), open_encrypted(scale, directory)
        with EmbeddedEngine(plain) as open_engine, EmbeddedEngine(encrypted) as strong_engine:
            engines = {"plain": open_engine, "encrypted": strong_engine}
            for number in QUERIES:
                text = queries[number]
                for name, engine in engines.items():
                    if problem := difference(engine.sql(text), answers[number]):
                        raise AssertionError(f"query {number}, {name}: {problem}")
                works = {name: lambda engine=engine, text=text: engine.sql(text) for name, engine in engines.items()}
                runs[number] = interleave(works, rounds=rounds, warm_up=0)
                progress(options, f"query {number:2}: x{runs[number].ratio('encrypted', to='plain'):.2f}")
    return report(runs, scale=scale, rounds=rounds)


def report(runs: Mapping[int, Runs], *, scale: float, rounds: int) -> Report:
    """Return totals, then each query."""
    figures = [
        Figure(name="total, CPU, encrypted / plain", value=total_ratio(runs, "cpu"), unit="x", at_most=GOAL),
        Figure(name="total, wall, encrypted / plain", value=total_ratio(runs, "wall"), unit="x"),
        Figure(name="total, CPU, plain", value=sum(each.cpu("plain") for each in runs.values()), unit="s"),
        Figure(name="total, CPU, encrypted", value=sum(each.cpu("encrypted") for each in runs.values()), unit="s"),
        Figure(name="total, wall, plain", value=sum(each.wall("plain") for each in runs.values()), unit="s"),
        Figure(name="total, wall, encrypted", value=sum(each.wall("encrypted") for each in runs.values()), unit="s"),
    ]
    for number, each in runs.items():
        ratio = each.ratio("encrypted", to="plain")
        figures.append(Figure(name=f"query {number}, CPU, encrypted / plain", value=ratio, unit="x"))
    return Report(
        name="tpch",
        title=f"TPC-H, scale factor {scale:g}, embedded engine",
        figures=figures,
        notes=[
            f"scale factor {scale:g}; median of {rounds} interleaved rounds; all 22 answers equal the published ones",
            "CPU seconds are of the whole process, all threads",
        ],
        draw=lambda canvas: draw(canvas, runs, scale=scale),
        size=(9.5, 5.6),
    )


def total_ratio(runs: Mapping[int, Runs], clock: str, *, side: str = "encrypted") -> float:
    """Return the median over rounds of the ratio of whole rounds: all queries on ``side`` per all queries plain."""
    totals = {
        name: [
            sum(getattr(cost, clock) for cost in turn)
            for turn in zip(*(each.costs[name] for each in runs.values()), strict=True)
        ]
        for name in ("plain", side)
    }
    return statistics.median(map(float.__truediv__, totals[side], totals["plain"]))


def difference(result: pa.Table, answer: str) -> str:
    """Return where ``result`` differs from a published answer, or nothing; floats agree to 1e-9, the rest exactly."""
    lines = answer.rstrip("\n").split("\n")[1:]
    if result.num_rows != len(lines):
        return f"{result.num_rows} rows, published are {len(lines)}"
    rows = zip(*(column.to_pylist() for column in result.columns), strict=True)
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        expected = [parse(text, kind) for text, kind in zip(line.split("|"), result.schema.types, strict=True)]
        if not all(itertools.starmap(same, zip(row, expected, strict=True))):
            return f"row {number} is {row}, published is {expected}"
    return ""


def parse(text: str, kind: pa.DataType) -> object:
    """Return one part of a published answer as the type that the engine gave it."""
    if pa.types.is_integer(kind):
        return int(text)
    if pa.types.is_decimal(kind):
        return Decimal(text)
    if pa.types.is_floating(kind):
        return float(text)
    if pa.types.is_date(kind):
        return date.fromisoformat(text)
    if pa.types.is_string(kind):
        return text
    raise TypeError(f"no published answer has the type {kind}")


def same(got: object, expected: object) -> bool:
    """Return whether two values are of one type and equal."""
    if isinstance(got, float) and isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=1e-9)
    return type(got) is type(expected) and got == expected


def draw(canvas: Canvas, runs: Mapping[int, Runs], *, scale: float) -> None:
    """Draw the queries of the embedded engine."""
    title = f"TPC-H at scale factor {scale:g}, embedded engine: encryption costs x{total_ratio(runs, 'cpu'):.2f}"
    draw_queries(canvas, runs, title=title, side="encrypted")


def draw_queries(canvas: Canvas, runs: Mapping[int, Runs], *, title: str, side: str) -> None:
    """Draw the CPU seconds of each query above, ``side`` beside plain, and their ratio below."""
    seconds, ratios = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    numbers = list(runs)
    for shift, name, colour in ((-0.2, "plain", PLAIN_COLOUR), (0.2, side, ENCRYPTED_COLOUR)):
        bars = [runs[number].cpu(name) for number in numbers]
        seconds.bar([place + shift for place in range(len(numbers))], bars, 0.4, label=name, color=colour)
    seconds.set_ylabel("CPU seconds")
    seconds.set_title(title)
    seconds.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
    seconds.grid(visible=False, axis="x")
    for place, number in enumerate(numbers):
        costs = zip(runs[number].costs[side], runs[number].costs["plain"], strict=True)
        each = sorted(ours.cpu / plain.cpu for ours, plain in costs)
        quarter = len(each) // 4
        middle_half = [each[quarter], each[-1 - quarter]]
        ratios.plot([place, place], middle_half, color=ENCRYPTED_COLOUR, alpha=0.3, linewidth=3, solid_capstyle="round")
        ratios.plot([place], [statistics.median(each)], "o", color=ENCRYPTED_COLOUR, markersize=5)
    ratios.axhline(1, color="#555555", linewidth=0.8)
    ratios.axhline(GOAL, color=GOAL_COLOUR, linewidth=1, linestyle="--")
    label = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "color": GOAL_COLOUR, "fontsize": 8}
    ratios.annotate(f"goal for\nthe total\n{GOAL:.2f}", (len(numbers) - 0.3, GOAL), annotation_clip=False, **label)
    ratios.set_ylabel(f"{side} / plain")
    ratios.set_xlabel("query (dot: median of rounds, bar: their middle half)")
    ratios.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    ratios.set_xlim(-0.7, len(numbers) - 0.3)
    ratios.grid(visible=False, axis="x")
