"""``strongroom demo``: the whole journey on this machine, told step by step, and six attacks that are refused."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from strongroom.cli.screen import SIMULATED, Screen, merge_reasons
from strongroom.cli.verb import verb

if TYPE_CHECKING:
    from strongroom.demo.refusals import RefusalCase

_NOT_REFUSED = 1
_SHOWN_ROWS = 16


class Told:
    """Tells the story on standard error while it happens; results go to standard output at the end."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    @contextmanager
    def step(self, number: int, title: str) -> Iterator[None]:
        """Print the step's title, run it, and print its seconds."""
        self._screen.say(f"{number}  {title}")
        started = time.monotonic()
        yield
        self._screen.say(f"     {time.monotonic() - started:.2f} s")

    def note(self, text: str) -> None:
        """Print one indented line."""
        self._screen.say(f"     {text}")

    def progress(self, name: str, done: int, total: int) -> None:
        """Leave long work to the progress bar of the verbs; the demo's data is small."""


@verb(
    examples=(
        "strongroom demo",
        "strongroom demo --engine embedded     # SQL only, no Java, a few seconds",
        "strongroom demo --json",
    )
)
@click.option(
    "--engine",
    type=click.Choice(["spark", "embedded"]),
    default="spark",
    show_default=True,
    help="Apache Spark on two attested workers, or DuckDB in the driver alone.",
)
@click.option(
    "--tee",
    type=click.Choice(["sgx", "tdx"]),
    default="sgx",
    show_default=True,
    help="Which kind of quotes the simulated TEE makes.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep everything here to look at; by default it is made in a temporary directory and removed.",
)
@click.option("--no-refusals", is_flag=True, help="Tell the journey only, without the attacks.")
def demo(screen: Screen, *, engine: str, tee: str, directory: Path | None, no_refusals: bool) -> int:
    """Play the whole journey on this machine: three owners, one analyst, one broker, attested at every step.

    Real data (New York's flights of 2013, its weather, the aircraft register), real processes, real encryption; only
    the TEE is simulated, and it protects nothing.
    """
    from strongroom.demo.data import OWNERS
    from strongroom.demo.plot import draw_delays
    from strongroom.demo.refusals import Refusals
    from strongroom.demo.story import Story
    from strongroom.demo.world import World

    screen.warn_simulated()
    kept = directory is not None
    place = directory or Path(tempfile.mkdtemp(prefix="strongroom-demo-"))
    world = World.build(place, tables=OWNERS, tee="tdx" if tee == "tdx" else "sgx")
    try:
        story = Story(world=world, engine=engine, narrator=Told(screen))
        story.tell()
        cases: list[RefusalCase] = []
        if not no_refusals:
            screen.say("")
            screen.say("What is refused, each by a real run:")
            cases = Refusals(story=story, on_case=lambda case: _say_case(screen, case)).run_all()
        picture = draw_delays(story.results["delays"], (Path.cwd() if not kept else place) / "strongroom-demo.png")
        ledger = story.audit()
    finally:
        world.close()
        if not kept:
            shutil.rmtree(place, ignore_errors=True)
    rows = story.results["delays"].to_pylist()
    tables = [
        screen.table(name, table.column_names, [list(row.values()) for row in table.slice(0, _SHOWN_ROWS).to_pylist()])
        for name, table in story.results.items()
    ]
    screen.result(
        {
            "simulated": True,
            "engine": engine,
            "steps": [{"name": step.name, "seconds": round(step.seconds, 4)} for step in story.steps],
            "result": rows,
            "results": {name: table.to_pylist() for name, table in story.results.items()},
            "refusals": [
                {"case": case.case, "refused": case.refused, "reasons": list(case.reasons), "ledger_entry": case.entry}
                for case in cases
            ],
            "ledger": {"entries": ledger.size, "verified": ledger.good},
            "plot": str(picture),
        },
        text=[
            "",
            *tables,
            "",
            f"ledger: {ledger.size} entries, {'verified from outside' if ledger.good else 'NOT consistent'}",
            f"plot:   {picture}",
            SIMULATED,
        ],
    )
    return 0 if all(case.refused for case in cases) and ledger.good else _NOT_REFUSED


def _say_case(screen: Screen, case: RefusalCase) -> None:
    mark = "refused" if case.refused else "NOT REFUSED"
    where = f" (ledger entry {case.entry})" if case.entry >= 0 else ""
    screen.say(f"  {mark}: {case.case}{where}")
    for reason in merge_reasons(case.reasons):
        screen.say(f"           {reason}")
