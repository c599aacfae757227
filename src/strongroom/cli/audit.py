"""``strongroom audit``: check the ledger, offline from a copy or against a running broker."""

from __future__ import annotations

import json
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import broker_option, home_option, verb
from strongroom.errors import UsageError
from strongroom.ledger import Entry, check_export

NOT_TRUSTED = 4
_SHOWN = 40


@verb(
    examples=(
        "strongroom audit --broker https://broker.example:7443 --save ledger-2026-11/",
        "strongroom audit ledger-2026-11/ --ledger-key broker.ledger-key --checkpoint remembered.txt",
        "strongroom audit ledger-2026-11/ --ledger-key broker.ledger-key --first-time --entries",
    )
)
@click.argument(
    "export", metavar="[COPY]", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False
)
@click.option(
    "--ledger-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The ledger's public key, got from somewhere else than the copy.",
)
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A signed checkpoint remembered from earlier; a ledger that was rolled back or rewritten contradicts it.",
)
@click.option("--first-time", is_flag=True, help="Say that there is no remembered checkpoint to hold the copy against.")
@click.option("--entries", "show_entries", is_flag=True, help="Print every entry as well.")
@click.option(
    "--save",
    "save",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With a broker: write the whole ledger to DIR, for checking offline and keeping.",
)
@broker_option
@home_option
def audit(
    screen: Screen,
    *,
    export: Path | None,
    ledger_key: Path | None,
    checkpoint: Path | None,
    first_time: bool,
    show_entries: bool,
    save: Path | None,
    broker: str | None,
    home: Path,
) -> int:
    """Check the ledger, from a copy or against a broker.

    Every entry, every hash, the signature, and that it continues what was remembered.

    With COPY, a directory written earlier, no network is needed and no broker is asked. Without, the broker's ledger
    is fetched, checked the same way and remembered in the home directory. Exit code 4 if anything does not hold.
    """
    from strongroom.parties.auditor import Auditor, read_checkpoint, read_entries, read_ledger_key
    from strongroom.parties.home import Home

    if export is None:
        if ledger_key or checkpoint or first_time:
            raise UsageError(
                "--ledger-key, --checkpoint and --first-time are for a copy",
                hint="name the copy's directory, or leave them out: the home remembers what it saw of the broker",
            )
        place = Home(home)
        trusted = place.broker(broker)
        report = Auditor(trust=trusted.trust(), memory=place.memory(trusted)).verify(trusted.url, save)
        remembered, copy = "checked against this home's memory", save
    else:
        if broker is not None or save is not None:
            raise UsageError("a copy is checked without a broker", hint="leave out --broker and --save")
        if ledger_key is None or (checkpoint is None) == (not first_time):
            raise UsageError(
                "a copy is checked against a key and a remembered checkpoint from elsewhere",
                hint="give --ledger-key FILE, and either --checkpoint FILE or, knowingly, --first-time",
            )
        ledger = read_ledger_key(ledger_key)
        known = None if checkpoint is None else read_checkpoint(checkpoint, ledger=ledger)
        report = check_export(export, ledger, remembered=known)
        remembered = f"{known.size} entries" if known else "nothing: a rolled-back ledger would not be noticed"
        copy = export
    if show_entries and copy is None:
        raise UsageError("--entries reads a copy", hint="add --save DIR")
    entries = list(read_entries(copy, report)) if show_entries and copy is not None and report.good else []
    lines = [
        f"ledger      {report.origin}",
        f"entries     {report.size}" + "".join(f", {count} {kind}" for kind, count in report.kinds.items()),
        f"root        {report.root.hex()}",
        f"remembered  {remembered}",
        *(_line(number, entry) for number, entry in enumerate(entries)),
        *(f"problem: {problem}" for problem in report.problems),
        "the ledger holds" if report.good else "the ledger does NOT hold",
    ]
    screen.result(
        {
            "ledger": report.origin,
            "size": report.size,
            "root": report.root.hex(),
            "kinds": report.kinds,
            "remembered": remembered,
            "problems": list(report.problems),
            "verified": report.good,
            **({"entries": [json.loads(entry.encode()) for entry in entries]} if show_entries else {}),
        },
        text=lines,
    )
    return 0 if report.good else NOT_TRUSTED


def _line(number: int, entry: Entry) -> str:
    facts = ", ".join(f"{name}={_short(value)}" for name, value in entry.facts.items() if value != "")
    reasons = "".join(f"\n{'':10}- {reason}" for reason in entry.reasons)
    return f"{number:6}  {entry.time:%Y-%m-%d %H:%M:%S}  {entry.kind.value:10} {facts}{reasons}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
