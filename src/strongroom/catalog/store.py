"""Keep sealed records on an untrusted disk: a crash loses nothing, a rollback is noticed (spec/4-release.md §5.2).

Every commit writes the changed records, the ledger entries that belong to the same decision and a sealed head in
one transaction. The head carries an epoch that the platform's counter also holds; the store never replies before both.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import sqlalchemy as sa

from strongroom.catalog.sealing import Sealer, SealError, add_tags
from strongroom.digests import frame
from strongroom.errors import StrongroomError, UsageError

FORMAT = 1
_METADATA = sa.MetaData()
RECORDS = sa.Table(
    "records",
    _METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
HEAD = sa.Table(
    "head",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)
_HEAD_PLACE = frame(b"strongroom/store/head/v1")


class StoreError(StrongroomError):
    """The broker's store cannot be used."""


class RolledBackStoreError(StoreError):
    """The store is older or newer than the platform's counter allows: somebody restored another copy of it."""

    exit_code = 4


class MonotonicCounter(Protocol):
    """A counter of the platform that the host cannot turn back."""

    def read(self) -> int:
        """Return the counter's value."""

    def advance_to(self, value: int, /) -> None:
        """Set the counter to ``value``; raise if it is not larger than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A record as it shall be from now on."""

    kind: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the last commit left: counted, and bound to the ledger and to the set of all records."""

    format: int = FORMAT
    epoch: int = 0
    commits: int = 0
    sequence: int = 0
    tags: int = 0
    size: int = 0
    root: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEnd:
    """The ledger's size and root after a commit, and how to write what it grew by."""

    size: int
    root: bytes
    write: Callable[[sqlite3.Cursor], None]


class Store:
    """The broker's store in one directory; one process at a time."""

    def __init__(self, directory: Path, *, sealer: Sealer, engine: sa.Engine, lock: Any) -> None:  # noqa: ANN401  a file
        self.directory = directory
        self.engine = engine
        self._sealer = sealer
        self._lock = lock
        self._tags: dict[tuple[str, str], int] = {}
        self._writer: sa.PoolProxiedConnection | None = None
        self.head = Head()

    @classmethod
    def open(cls, directory: Path, *, sealing_key: bytes, tables: Sequence[sa.MetaData]) -> Self:
        """Open or create the store in ``directory``; ``tables`` are other rooms' tables in the same database.

        Raise UsageError if another process uses it, StoreError if it is not a store.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (directory / "lock").open("w")
        except OSError as error:
            raise UsageError(
                f"cannot use {directory} as the store: {error.strerror}", hint="name a directory this process may write"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise UsageError(
                f"another broker uses the store {directory}", hint="stop it first, or name another directory"
            ) from error
        engine = sa.create_engine(f"sqlite:///{directory / 'store.sqlite'}", connect_args={"timeout": 10})
        sa.event.listen(engine, "connect", _configure)
        try:
            for metadata in (_METADATA, *tables):
                metadata.create_all(engine)
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            lock.close()
            raise _damaged(directory, error) from error
        return cls(directory, sealer=Sealer(sealing_key), engine=engine, lock=lock)

    def load(self) -> Iterator[Change]:
        """Yield every record, opened; raise StoreError at the end unless they are exactly what was committed."""
        try:
            yield from self._load()
        except sa.exc.DatabaseError as error:
            raise _damaged(self.directory, error) from error

    def _load(self) -> Iterator[Change]:
        with self.engine.connect() as connection:
            sealed_head = connection.execute(sa.select(HEAD.c.sealed)).scalar()
            rows = connection.execute(sa.select(RECORDS.c.kind, RECORDS.c.key, RECORDS.c.sequence, RECORDS.c.sealed))
            self._tags = {}
            for kind, key, sequence, sealed in rows:
                place = _place(kind, key, sequence)
                value = self._sealer.open(sealed, place=place)
                self._tags[kind, key] = self._sealer.tag(sealed, place=place)
                yield Change(kind=kind, key=key, value=value)
        if sealed_head is None and not self._tags:
            self.head = Head()
            return
        if sealed_head is None:
            raise SealError("the store's head is missing", hint="restore the newest backup of the directory")
        self.head = Head(**json.loads(self._sealer.open(sealed_head, place=_HEAD_PLACE)))
        if self.head.format != FORMAT:
            raise StoreError(f"the store has format {self.head.format}, this broker writes {FORMAT}")
        if self.head.tags != add_tags(*self._tags.values()):
            raise SealError(
                "records of the store were dropped, added or brought back",
                hint="the store was changed from outside; restore the newest backup of the whole directory",
            )

    def commit(self, changes: Sequence[Change], *, epoch: int, ledger: LedgerEnd) -> None:
        """Write ``changes`` and what the ledger grew by in one durable transaction."""
        sequence, tags = self.head.sequence, self.head.tags
        fresh: dict[tuple[str, str], int] = {}
        rows: dict[tuple[str, str], tuple[str, str, int, bytes]] = {}
        for change in changes:
            sequence += 1
            name = (change.kind, change.key)
            place = _place(change.kind, change.key, sequence)
            sealed = self._sealer.seal(change.value, place=place)
            old = fresh.get(name, self._tags.get(name, 0))
            fresh[name] = self._sealer.tag(sealed, place=place)
            tags = add_tags(tags, -old, fresh[name])
            rows[name] = (change.kind, change.key, sequence, sealed)
        head = replace(
            self.head,
            epoch=epoch,
            commits=self.head.commits + 1,
            sequence=sequence,
            tags=tags,
            size=ledger.size,
            root=ledger.root.hex(),
        )
        plain = json.dumps({name: getattr(head, name) for name in head.__slots__}).encode()
        sealed_head = self._sealer.seal(plain, place=_HEAD_PLACE)
        with self._transaction() as cursor:
            ledger.write(cursor)
            if rows:
                cursor.executemany(_REPLACE_RECORD, rows.values())
            cursor.execute(_REPLACE_HEAD, (sealed_head,))
        self.head = head
        self._tags.update(fresh)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        """Lend a cursor of the connection that all commits share, whose few statements stay prepared."""
        if self._writer is None:
            self._writer = self.engine.raw_connection()
        cursor: Any = self._writer.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            self._writer.rollback()
            raise
        finally:
            cursor.close()

    def check_epoch(self, counter: MonotonicCounter) -> None:
        """Raise RolledBackStoreError unless the store is the one that the platform's counter was advanced for.

        A store one ahead is a commit whose reply was never sent: the counter follows.
        """
        value = counter.read()
        if self.head.epoch == value + 1:
            counter.advance_to(self.head.epoch)
        elif self.head.epoch != value:
            which = "was rolled back" if self.head.epoch < value else "is not this platform's"
            raise RolledBackStoreError(
                f"the store in {self.directory} {which}: it is at epoch {self.head.epoch}, the platform is at {value}",
                hint="an old copy of the store was restored, it was emptied, or it comes from another machine; "
                "bring back the newest copy. The broker will not serve from this one",
            )

    def close(self) -> None:
        """Let go of the store."""
        if self._writer is not None:
            self._writer.close()
        self.engine.dispose()
        self._lock.close()


def _damaged(directory: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{directory} holds no usable store: {error}", hint="restore the newest backup of the whole directory"
    )


_REPLACE_RECORD = (
    "INSERT INTO records (kind, key, sequence, sealed) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (kind, key) DO UPDATE SET sequence = excluded.sequence, sealed = excluded.sealed"
)
_REPLACE_HEAD = "INSERT INTO head (id, sealed) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed"


def _place(kind: str, key: str, sequence: int) -> bytes:
    return frame(b"strongroom/store/record/v1", kind.encode(), key.encode(), str(sequence).encode())


def _configure(connection: Any, _record: object) -> None:  # noqa: ANN401  the driver's own connection
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
