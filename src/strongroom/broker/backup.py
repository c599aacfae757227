"""Copy the broker's store while it serves, and bring a copy back unless that would undo something (spec/4 §5.2).

Records stay sealed: whoever copies needs no key and learns nothing. The ledger in a copy is recomputed from its
entries, and a copy is brought back only if it holds all that somebody remembers of that ledger.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from strongroom.broker.ledger_store import METADATA, ROWS, read_rows
from strongroom.catalog.databases import copy_sqlite, open_database, reading
from strongroom.catalog.store import HEAD, RECORDS, SEAL, RolledBackStoreError, StoreError
from strongroom.digests import same
from strongroom.errors import LedgerError, UsageError
from strongroom.ledger.checkpoint import Checkpoint
from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.ledger.memory import CheckpointMemory
from strongroom.ledger.proofs import EMPTY_ROOT

SUFFIX = ".store"
_TABLES: tuple[sa.Table, ...] = (RECORDS, HEAD, SEAL, ROWS)
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A copy of a store in one SQLite file: how many entries its ledger has, and their root."""

    path: Path
    size: int
    root: bytes

    @property
    def octets(self) -> int:
        """Return the file's size in bytes."""
        return self.path.stat().st_size


def take_backup(place: str, folder: Path, *, now: datetime) -> Backup:
    """Write a copy of the store at ``place``, as it is at one moment, into ``folder``; return it once it is durable.

    ``place`` is a directory or a PostgreSQL address, and a broker may serve from it. The copy has been read again and
    its ledger recomputed before it gets its name. Raise UsageError if there is no store, StoreError if it is damaged.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = folder / f".{now:%Y%m%dT%H%M%SZ}-{os.getpid()}.partial"
    try:
        partial.touch(mode=0o600, exist_ok=False)
        if "://" in place:
            _copy_rows(place, partial)
        else:
            copy_sqlite(Path(place), partial)
        size, root, _ = _read_ledger(partial, ())
        _sync(partial)
        path = folder / f"{now:%Y%m%dT%H%M%SZ}-{size:010}{SUFFIX}"
        partial.rename(path)
        _sync(folder)
    except OSError as error:
        raise StoreError(
            f"cannot write the backup into {folder}: {error.strerror}",
            hint="is there room, and may this process write?",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return Backup(path=path, size=size, root=root)


def prune_backups(folder: Path, *, keep: int) -> list[Path]:
    """Delete the oldest backups in ``folder`` beyond the newest ``keep``, and return what was deleted."""
    if keep < 1:
        raise UsageError(f"at least one backup is kept, got {keep}")
    old = sorted(folder.glob(f"[0-9]*{SUFFIX}"))[:-keep]
    for path in old:
        path.unlink()
    return old


def restore_backup(path: Path, place: str, *, remembered: Sequence[CheckpointMemory]) -> Backup:
    """Write the backup at ``path`` as the store at ``place``, which must not hold one, and return what it holds.

    Each of ``remembered`` is what a party or a witness remembers of the ledger. Raise RolledBackStoreError, and write
    nothing, if the backup lacks any of it or has another history; UsageError if nothing is remembered, or if a broker
    or a store is at ``place``; StoreError if the backup is damaged.
    """
    if not path.is_file():
        raise UsageError(f"there is no backup {path}", hint="name a file that `strongroom broker backup` wrote")
    known = [_recall(memory) for memory in remembered]
    if not known:
        raise UsageError(
            "nobody says what the ledger had come to",
            hint="name what a witness (memory.json in its folder) or a party remembers",
        )
    size, root, roots = _read_ledger(path, [one.size for one in known])
    _hold(known, size, roots)
    with closing(open_database(place)) as database:
        for metadata in (RECORDS.metadata, METADATA):
            metadata.create_all(database.engine)
        with reading(_url(path)) as source, database.transaction() as cursor:
            for table in _TABLES:
                if cursor.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]:  # noqa: S608  names of ours
                    raise UsageError(
                        f"there is a store at {database.name}", hint="restore to an empty place; move the old one aside"
                    )
            for table in _held(source):
                for rows in _partitions(source, table):
                    cursor.executemany(_insert(table), rows)
    return Backup(path=path, size=size, root=root)


def _recall(memory: CheckpointMemory) -> Checkpoint:
    found = memory.recall()
    if found is None:
        raise UsageError(f"{memory.path} remembers nothing", hint="name what a witness or a party keeps of the ledger")
    return found[1].checkpoint


def _hold(known: Sequence[Checkpoint], size: int, roots: Mapping[int, bytes]) -> None:
    newest = max(one.size for one in known)
    if newest > size:
        raise RolledBackStoreError(
            f"the backup has {size} entries and {newest} are remembered: what was decided since would be undone",
            hint="bring back a newer backup; if there is none, tell all parties, let them audit what is left, and "
            "start a broker with an empty store at which owners register again",
        )
    if any(not same(roots[one.size], one.root) for one in known):
        raise RolledBackStoreError(
            "the backup's ledger is another one than the one that is remembered",
            hint="it is of another broker, or somebody rewrote it; keep it as evidence and tell all parties",
        )


def _read_ledger(path: Path, sizes: Sequence[int]) -> tuple[int, bytes, dict[int, bytes]]:
    """Return the size and root of a copy's ledger, recomputed, and its roots at ``sizes``, as far as it has them."""
    log, roots = MerkleLog(MemoryStore()), {0: EMPTY_ROOT}
    wanted = sorted(set(sizes))
    try:
        with closing(sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)) as plain:
            if plain.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                raise StoreError(f"{path} is damaged", hint="take another backup")
            plain.execute("SELECT count(*) FROM records")
            if plain.execute("SELECT count(*) FROM head").fetchone()[0] != 1:
                raise StoreError(f"{path} holds no store that a broker has written to")
        with reading(_url(path)) as source:
            for start, entries, hashes in read_rows(source):
                for size in wanted:
                    if start < size <= start + len(entries):
                        roots[size] = log.grow(entries[: size - start]).root
                growth = log.grow(entries)
                if start != log.size or hashes != b"".join(growth.nodes.values()):
                    raise LedgerError("its hashes are not those of its entries")  # noqa: TRY301  told once
                log.adopt(growth)
    except (sqlite3.Error, sa.exc.DatabaseError, LedgerError) as error:
        said = error.message if isinstance(error, LedgerError) else str(error).partition("\n")[0]
        raise StoreError(f"{path} is no sound copy of a store: {said}", hint="take another backup") from error
    return log.size, log.root, roots


def _copy_rows(place: str, target: Path) -> None:
    """Copy a PostgreSQL store, as one transaction sees it, into a new SQLite file."""
    engine = sa.create_engine(f"sqlite:///{target}")
    try:
        for metadata in (RECORDS.metadata, METADATA):
            metadata.create_all(engine)
        with reading(place) as source, closing(sqlite3.connect(target)) as made, made:
            for table in _held(source):
                for rows in _partitions(source, table):
                    made.executemany(_insert(table), rows)
    except (sqlite3.Error, sa.exc.DatabaseError) as error:
        said = str(error).partition("\n")[0]
        raise StoreError(f"cannot copy the store: {said}", hint="is it a broker's, and is there room?") from error
    finally:
        engine.dispose()


def _held(source: sa.Connection) -> Iterator[sa.Table]:
    """Yield the tables to copy; a store that no newer broker has opened yet has no seal."""
    for table in _TABLES:
        if table is not SEAL or sa.inspect(source).has_table(SEAL.name):
            yield table


def _insert(table: sa.Table) -> str:
    names = ", ".join(column.name for column in table.columns)
    marks = ", ".join("?" * len(table.columns))
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks})"  # noqa: S608  names of ours


def _partitions(source: sa.Connection, table: sa.Table) -> Iterator[list[tuple[Any, ...]]]:
    found = source.execution_options(stream_results=True).execute(sa.select(table))
    for rows in found.partitions(_ROWS_AT_ONCE):
        yield [tuple(row) for row in rows]


def _url(path: Path) -> str:
    return f"sqlite:///file:{path.absolute()}?mode=ro&uri=true"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["SUFFIX", "Backup", "prune_backups", "restore_backup", "take_backup"]
