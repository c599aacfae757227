"""The terminal: results on stdout, talk on stderr, and nothing coloured or moving unless a person watches.

What a verb has to say goes through one :class:`Screen`. It never prints a secret, because no method takes one.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from strongroom.errors import EvidenceError, RefusedError, StrongroomError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LARGE = 1000  # from here on, digits before the point are the ones that count
SIMULATED = "simulated TEE: it behaves like the real one and protects nothing"


class Screen:
    """Where one verb prints; with ``as_json``, stdout carries exactly one JSON object and nothing else."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        width = None if sys.stdout.isatty() else 120
        self._out = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width, no_color=_colourless())
        self._talk = Console(file=sys.stderr, highlight=False, soft_wrap=True, no_color=_colourless())

    def say(self, text: str) -> None:
        """Tell the person what is going on (stderr)."""
        self._talk.print(show(text))

    def warn_simulated(self) -> None:
        """Say that a simulated TEE is in play (stderr)."""
        self._talk.print(f"[yellow]{SIMULATED}[/yellow]")

    def result(self, value: Mapping[str, Any], *, text: Iterable[str | Text | Table] = ()) -> None:
        """Print the verb's result: ``value`` as one JSON object, or ``text`` line by line for people."""
        if self.as_json:
            click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))
            return
        for line in text:
            self._out.print(show(line) if isinstance(line, str) else line)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
        """Return a table to be printed by :meth:`result`; no cell is markup.

        Numbers stand at the right, fractions with four digits that count: JSON and files have them whole.
        """
        table = Table(
            title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
        )
        cells = [list(row) for row in rows]
        for place, column in enumerate(columns):
            numbers = bool(cells) and all(_is_number(row[place]) or row[place] is None for row in cells)
            table.add_column(show(column), overflow="fold", justify="right" if numbers else "left")
        for row in cells:
            table.add_row(*(show(_cell(value)) for value in row))
        return table

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Yield a function that takes bytes done and bytes in all; draws a bar if a person watches stderr."""
        if self.as_json or not sys.stderr.isatty():
            yield lambda _done, _total: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._talk, transient=True) as bar:
            task = bar.add_task(show(label).plain.replace("[", r"\["), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def fail(self, error: StrongroomError) -> None:
        """Print an error for people on stderr and, with ``as_json``, as an object on stdout."""
        reasons = error.reasons if isinstance(error, RefusedError) else ()
        # A message may repeat its reasons below its first line, for where there is no list of them.
        message = error.message.partition("\n")[0] if reasons else error.message
        self._talk.print(Text.assemble(("error:", "bold red"), " ", show(message)))
        for reason in merge_reasons(reasons):
            self._talk.print(Text.assemble("  - ", show(reason)))
        if error.hint:
            self._talk.print(Text.assemble(("hint:", "bold"), " ", show(error.hint)))
        if self.as_json:
            described: dict[str, Any] = {"kind": error.kind, "message": error.message, "hint": error.hint}
            if isinstance(error, RefusedError):
                described["reasons"] = list(reasons)
            if isinstance(error, EvidenceError):
                described["step"] = error.step
            click.echo(json.dumps({"error": described, "exit_code": error.exit_code}, indent=2, ensure_ascii=False))


def show(text: str) -> Text:
    """Return ``text`` as it may be shown: what would steer the terminal or turn the line around is spelt out."""
    return Text(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text))


def merge_reasons(reasons: Iterable[str]) -> list[str]:
    """Return ``reasons`` with those that several datasets' policies share told once: ``flights, weather: ...``."""
    shared: dict[str, list[str]] = {}
    for reason in reasons:
        dataset, colon, text = reason.partition(": ")
        about = [dataset] if colon and re.fullmatch(r"[a-z][a-z0-9_-]*", dataset) else []
        shared.setdefault(text if about else reason, []).extend(about)
    return [f"{', '.join(dict.fromkeys(about))}: {text}" if about else text for text, about in shared.items()]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _cell(value: object) -> str:
    """Return one cell's text for people."""
    if value is None:
        return ""
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return f"{value:,.1f}" if abs(float(value)) >= _LARGE else f"{value:.4g}"
    return str(value)


def paint(line: str) -> Text:
    """Return one line of an explanation for a terminal: verdicts, concerns and titles in colour, the rest as it is."""
    text = show(line)
    for pattern, style in _PAINT:
        text.highlight_regex(pattern, style)
    return text


_PAINT = (
    (r"^(verified|accepted by the policy)\b", "bold green"),
    (r"^(rejected|not accepted)\b[^:]*", "bold red"),
    (r"^ok\b", "green"),
    (r"^warn\b", "yellow"),
    (r"^fail\b", "bold red"),
    (r"^(concern|simulated|warning):?.*", "yellow"),
    (r"^\s*what to do:", "bold cyan"),
    (r"^[a-z ]+:$", "bold"),
    (r"is \d+, needs \d+", "red"),
    (r"INTEL-SA-\d+", "magenta"),
)


def _plain(value: object) -> object:
    """Return what JSON has no word for as it has: exact whole numbers, other decimals and times as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else str(value)
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"a result of type {type(value).__name__} has no form in JSON")


def _colourless() -> bool | None:
    """Return True when the person asked for no colour; None lets rich decide by the terminal."""
    return True if os.environ.get("NO_COLOR") else None
