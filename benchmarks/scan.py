"""TPC-H lineitem: write, read fully, read one column, read a slice: encrypted and plain.

Plain files have the same codec, row groups and encodings. Data comes from the page cache, since a disk that is slower
than AES would hide it.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.harness import Figure, Options, Report, Runs, interleave, progress
from benchmarks.warehouse import encrypt, open_plain_table, scratch, tpch_source, write_plain
from strongroom.envelope.custody import Custody
from strongroom.envelope.keys import DataKey
from strongroom.envelope.table import open_table, write_table
from strongroom.workload.embedded import EmbeddedEngine

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Work = Callable[[], object]
GOALS: Final = {"write": 1.10, "full read": 1.10, "one column": 1.20}
ONE: Final = ["l_extendedprice"]
FOUR: Final = ["l_orderkey", "l_shipdate", "l_extendedprice", "l_discount"]
EVERY_COLUMN: Final = "SELECT max(COLUMNS(*)) FROM lineitem"
SLICE: Final = (ds.field("l_shipdate") >= date(1994, 1, 1)) & (ds.field("l_shipdate") < date(1994, 2, 1))
PLAIN_COLOUR, ENCRYPTED_COLOUR, GOAL_COLOUR = "#9aa5b1", "#1f6f8b", "#c8553d"


def run(options: Options) -> Report:
    """Run each work on both sides, turn about; count the calls that the encrypted side made to key services."""
    scale, rounds = (0.1, 3) if options.quick else (1, 9)
    runs: dict[str, Runs] = {}
    calls = KeyServiceCalls()
    with scratch() as directory:
        progress(options, f"preparing lineitem at scale factor {scale:g}")
        [(manifest, keys)] = encrypt(scale, directory, ["lineitem"], watch=calls.custody).values()
        data = pq.read_table(tpch_source(scale)["lineitem"])
        write_plain(data, directory / "lineitem-plain")
        sizes = {side: size_of(directory / f"lineitem-{side}") for side in ("plain", "encrypted")}
        target = directory / "written"

        def tidy() -> None:
            shutil.rmtree(target, ignore_errors=True)

        with calls.connections():
            plain = open_plain_table(directory / "lineitem-plain")
            encrypted = open_table(directory / "lineitem-encrypted", keys, manifest=manifest)
            with EmbeddedEngine({"lineitem": plain}) as bare, EmbeddedEngine({"lineitem": encrypted}) as strong:
                works: dict[str, tuple[Work, Work, int]] = {
                    "write": (lambda: write_plain(data, target), lambda: write_table(data, target, keys), 1),
                    "full read": (lambda: read(plain), lambda: read(encrypted), 3),
                    "one column": (lambda: read(plain, ONE), lambda: read(encrypted, ONE), 5),
                    "filtered read": (lambda: read(plain, FOUR, SLICE), lambda: read(encrypted, FOUR, SLICE), 5),
                    "SQL, all columns": (lambda: bare.sql(EVERY_COLUMN), lambda: strong.sql(EVERY_COLUMN), 1),
                }
                for name, (on_plain, on_encrypted, times) in works.items():
                    sides = {"plain": on_plain, "encrypted": on_encrypted}
                    runs[name] = interleave(sides, rounds=rounds * times, tidy=tidy)
                    progress(options, f"{name}: x{runs[name].ratio('encrypted', to='plain'):.3f}")
                opening = interleave(
                    {"open": lambda: open_table(directory / "lineitem-encrypted", keys, manifest=manifest)},
                    rounds=rounds,
                )
    figures = list(compare(runs))
    figures += [
        Figure(name="size, encrypted / plain", value=sizes["encrypted"] / sizes["plain"], unit="x"),
        Figure(name="open and verify the dataset, CPU", value=opening.cpu("open") * 1000, unit="ms"),
        Figure(name="key-service calls to encrypt the dataset", value=calls.wraps, unit="calls", at_most=1),
        Figure(name="key-service calls to read it, per process", value=calls.unwraps, unit="calls", at_most=1),
        Figure(name="connections opened while writing and reading", value=calls.connected, unit="calls", at_most=0),
    ]
    return Report(
        name="scan",
        title=f"TPC-H lineitem, scale factor {scale:g}, {data.num_rows:,} rows, pyarrow and embedded engine",
        figures=figures,
        notes=[
            f"{data.num_rows:,} rows, {len(data.column_names)} columns, every column under its own key",
            f"{data.nbytes / 1e6:,.0f} MB in memory, {sizes['plain'] / 1e6:,.0f} MB as plain Parquet with zstd",
            f"median of {rounds} rounds, {rounds * 3} of full reads, {rounds * 5} of one column or filtered",
            "files come from the page cache",
            "encrypted writes also take the SHA-256 of the file; both sides end with fsync",
        ],
        draw=lambda canvas: draw(canvas, runs),
        size=(9.5, 4.2),
    )


class KeyServiceCalls:
    """Counts what leaves the process for keys: calls to custody, and connections to anywhere."""

    def __init__(self) -> None:
        self.wraps = self.unwraps = self.connected = 0
        self._watching = False
        sys.addaudithook(self._see)

    def _see(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self._watching and event == "socket.connect":
            self.connected += 1

    @contextmanager
    def connections(self) -> Iterator[None]:
        """Count connections inside this block."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def custody(self, real: Custody) -> Custody:
        """Return ``real`` with its calls counted."""
        return _CountedCustody(real, self)


class _CountedCustody:
    def __init__(self, real: Custody, calls: KeyServiceCalls) -> None:
        self._real, self._calls, self.uri = real, calls, real.uri

    def wrap(self, key: DataKey, *, context: bytes) -> str:
        self._calls.wraps += 1
        return self._real.wrap(key, context=context)

    def unwrap(self, wrapped: str, *, context: bytes) -> DataKey:
        self._calls.unwraps += 1
        return self._real.unwrap(wrapped, context=context)


def read(table: ds.Dataset, columns: list[str] | None = None, chosen: ds.Expression | None = None) -> int:
    """Decode every batch and let it go; return the number of rows."""
    return sum(batch.num_rows for batch in table.scanner(columns=columns, filter=chosen).to_reader())


def size_of(directory: Path) -> int:
    """Return the bytes of the Parquet files in a directory."""
    return sum(path.stat().st_size for path in directory.glob("*.parquet"))


def compare(runs: Mapping[str, Runs]) -> Iterator[Figure]:
    """Yield the ratio of each work, then its seconds on both sides."""
    for name, each in runs.items():
        value = each.ratio("encrypted", to="plain")
        yield Figure(name=f"{name}, CPU, encrypted / plain", value=value, unit="x", at_most=GOALS.get(name))
    for name, each in runs.items():
        for side in ("plain", "encrypted"):
            yield Figure(name=f"{name}, {side}, CPU", value=each.cpu(side), unit="s")
            yield Figure(name=f"{name}, {side}, wall", value=each.wall(side), unit="s")


def draw(canvas: Canvas, runs: Mapping[str, Runs]) -> None:
    """Draw what each work costs as a share of plain, with the spread of rounds and the goal."""
    axes = canvas.subplots()
    names = list(runs)[::-1]
    for row, name in enumerate(names):
        pairs = zip(runs[name].costs["encrypted"], runs[name].costs["plain"], strict=True)
        ratios = sorted(encrypted.cpu / plain.cpu for encrypted, plain in pairs)
        middle = statistics.median(ratios)
        quarter = len(ratios) // 4
        axes.plot([ratios[quarter], ratios[-1 - quarter]], [row, row], color=ENCRYPTED_COLOUR, alpha=0.3, linewidth=9)
        axes.plot([middle], [row], "o", color=ENCRYPTED_COLOUR, markersize=7)
        seconds = f"{runs[name].cpu('plain'):.3g} s  →  {runs[name].cpu('encrypted'):.3g} s"
        axes.annotate(f"x{middle:.2f}", (middle, row), (0, 10), textcoords="offset points", ha="center", weight="bold")
        axes.annotate(seconds, (1.01, row), xycoords=("axes fraction", "data"), va="center", color="#555555")
        if goal := GOALS.get(name):
            axes.plot([goal, goal], [row - 0.32, row + 0.32], color=GOAL_COLOUR, linewidth=2)
    axes.axvline(1, color="#555555", linewidth=1)
    axes.annotate("plain", (1, len(names) - 0.45), (3, 0), textcoords="offset points", color="#555555", fontsize=8)
    axes.plot([], [], color=GOAL_COLOUR, linewidth=2, label="goal, at most")
    axes.plot([], [], "o", color=ENCRYPTED_COLOUR, label="median of rounds (bar: middle half)")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.3)
    axes.set_xlim(min(0.95, axes.get_xlim()[0]), max(1.25, axes.get_xlim()[1]))
    axes.set_xlabel("CPU seconds encrypted / CPU seconds plain")
    axes.set_title("TPC-H lineitem: what encryption costs")
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1.25, 1), ncols=2, borderaxespad=0.2, fontsize=8)
