"""``strongroom broker backup`` and ``restore``: copy a broker's sealed store, and bring a copy back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from strongroom.cli.screen import Screen
from strongroom.cli.verb import verb

_store_option = click.option(
    "--store",
    required=True,
    metavar="DIR|URL",
    help="The broker's store: a directory, or postgresql+psycopg://NAME@HOST/DATABASE?passfile=FILE.",
)


@verb(
    name="backup",
    examples=(
        "strongroom broker backup --store store/ --into backups/",
        "strongroom broker backup --store 'postgresql+psycopg://me@db/store?passfile=pgpass' --into backups/ --keep 30",
    ),
)
@_store_option
@click.option(
    "--into",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the copy is written, under a name that says when and how many entries.",
)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Then delete the oldest beyond the newest N.")
def backup(screen: Screen, *, store: str, into: Path, keep: int | None) -> None:
    """Copy a broker's store, as it is at one moment, while the broker serves.

    The records in the copy are sealed as they were, so it holds no secret and needs no key. Its ledger is recomputed
    before the copy gets its name. Only a broker of the same machine and measurement can open it.
    """
    from strongroom.broker.backup import prune_backups, take_backup

    made = take_backup(store, into, now=datetime.now(UTC))
    pruned = prune_backups(into, keep=keep) if keep is not None else []
    screen.result(
        {
            "backup": str(made.path),
            "entries": made.size,
            "root": made.root.hex(),
            "bytes": made.octets,
            "deleted": [str(path) for path in pruned],
        },
        text=(f"{made.path}  {made.size} entries  {made.octets} bytes", *(f"deleted {path}" for path in pruned)),
    )


@verb(
    name="restore",
    examples=(
        "strongroom broker restore backups/20270101T120000Z-0000000042.store --store store/ --remembered memory.json",
    ),
)
@click.argument("copy", metavar="BACKUP", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_store_option
@click.option(
    "--remembered",
    required=True,
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What a witness or a party remembers of the ledger (memory.json of the witness); repeat it for more of them.",
)
def restore(screen: Screen, *, copy: Path, store: str, remembered: tuple[Path, ...]) -> None:
    """Bring BACKUP back as the store of a broker that lost its own.

    Refused with exit code 4, and nothing written, if anybody remembers more of the ledger than the backup holds, or
    another history: what was decided since, a revocation perhaps, would be undone. The place must hold no store.
    """
    from strongroom.broker.backup import restore_backup
    from strongroom.ledger import CheckpointMemory

    found = restore_backup(copy, store, remembered=[CheckpointMemory(path) for path in remembered])
    screen.result(
        {"store": store, "entries": found.size, "root": found.root.hex()},
        text=(f"{store}  {found.size} entries", "start the broker: it holds the store against the platform's counter"),
    )
