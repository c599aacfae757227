"""Keep sealed records on an untrusted disk: a crash loses nothing, a rollback is noticed (spec/4-release.md §5.2).

Every commit writes the changed records, the ledger entries that belong to the same decision and a sealed head in
one transaction. The head carries an epoch that the platform's counter also holds; the store never replies before both.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import sqlalchemy as sa

from strongroom.catalog.databases import Cursor, Database, StoreError, StoreInUseError, open_database
from strongroom.catalog.sealing import Sealer, SealError, add_tags
from strongroom.digests import frame

FORMAT = 1
_METADATA = sa.MetaData()
RECORDS = sa.Table(
    "records",
    _METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
HEAD = sa.Table(
    "head",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)
SEAL = sa.Table(
    "seal",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
)
_HEAD_PLACE = frame(b"strongroom/store/head/v1")


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
    write: Callable[[Cursor], None]


class ClosedStore:
    """A store that this process holds and cannot read yet; ``seal`` says in the clear how its key is come by.

    The host may have written the seal: it is a hint, under which records open or do not.
    """

    def __init__(self, database: Database, *, seal: str, empty: bool) -> None:
        self._database = database
        self.seal = seal
        self.empty = empty

    @classmethod
    def hold(cls, place: str | Path, *, tables: Sequence[sa.MetaData]) -> Self:
        """Take the store at ``place``, made if need be; ``tables`` are other rooms' tables in the same database.

        ``place`` is a directory or the address of a PostgreSQL database. Raise StoreInUseError if another process uses
        it, UsageError if it cannot be reached, StoreError if it is not a store.
        """
        database = open_database(place)
        try:
            for metadata in (_METADATA, *tables):
                metadata.create_all(database.engine)
            with database.engine.connect() as connection:
                seal = connection.execute(sa.select(SEAL.c.text)).scalar()
                head = connection.execute(sa.select(HEAD.c.id)).scalar()
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            database.close()
            raise _damaged(database, error) from error
        return cls(database, seal=seal or "", empty=head is None and not seal)

    def open(self, key: bytes) -> Store:
        """Return the store, whose records open under ``key`` or not at all."""
        return Store(self._database, sealer=Sealer(key))

    def close(self) -> None:
        """Let go of the store."""
        self._database.close()


class Store:
    """The broker's store in one database; one process at a time."""

    def __init__(self, database: Database, *, sealer: Sealer) -> None:
        self.engine = database.engine
        self._database = database
        self._sealer = sealer
        self._tags: dict[tuple[str, str], int] = {}
        self._sealed_head: bytes | None = None
        self._carried: tuple[Change, ...] = ()
        self._next_seal = ""
        self.head = Head()

    def load(self) -> Iterator[Change]:
        """Yield every record, opened; raise StoreError at the end unless they are exactly what was committed."""
        try:
            yield from self._load()
        except sa.exc.DatabaseError as error:
            raise _damaged(self._database, error) from error

    def _load(self) -> Iterator[Change]:
        with self.engine.connect() as connection:
            sealed_head = self._sealed_head = connection.execute(sa.select(HEAD.c.sealed)).scalar()
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

    def reseal(self, key: bytes, *, seal: str) -> None:
        """Have the next commit write every record anew under ``key``, and ``seal`` with them; load the store before.

        Until then nothing has changed; afterwards nothing opens under the old key any more.
        """
        self._carried, self._next_seal = tuple(self._load()), seal
        self._sealer = Sealer(key)

    def commit(self, changes: Sequence[Change], *, epoch: int, ledger: LedgerEnd) -> None:
        """Write ``changes`` and what the ledger grew by in one durable transaction."""
        resealing = bool(self._next_seal)
        known = {} if resealing else self._tags
        sequence, tags = self.head.sequence, 0 if resealing else self.head.tags
        fresh: dict[tuple[str, str], int] = {}
        rows: dict[tuple[str, str], tuple[str, str, int, bytes]] = {}
        for change in (*self._carried, *changes):
            sequence += 1
            name = (change.kind, change.key)
            place = _place(change.kind, change.key, sequence)
            sealed = self._sealer.seal(change.value, place=place)
            old = fresh.get(name, known.get(name, 0))
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
        with self._database.transaction() as cursor:
            if self._sealed_head is None:
                cursor.execute(_FIRST_HEAD, (sealed_head,))
            else:
                cursor.execute(_NEXT_HEAD, (sealed_head, self._sealed_head))
            if cursor.rowcount != 1:
                raise _overtaken(self._database)
            ledger.write(cursor)
            if rows:
                cursor.executemany(_REPLACE_RECORD, rows.values())
            if resealing:
                cursor.execute(_REPLACE_SEAL, (self._next_seal,))
        self._carried, self._next_seal = (), ""
        self._sealed_head = sealed_head
        self.head = head
        self._tags.update(fresh)

    def check_head(self) -> None:
        """Raise StoreError unless the store can still be written to and its head is the one written here last."""
        with self._database.transaction() as cursor:
            found = cursor.execute(_READ_HEAD).fetchone()
        if (None if found is None else bytes(found[0])) != self._sealed_head:
            raise _overtaken(self._database)

    def check_epoch(self, counter: MonotonicCounter) -> None:
        """Raise RolledBackStoreError unless the store is the one that the platform's counter was advanced for.

        A store one ahead is a commit whose reply was never sent: the counter follows.
        """
        value = counter.read()
        if self.head.epoch == value + 1:
            counter.advance_to(self.head.epoch)
        elif self.head.epoch != value:
            which = "was rolled back" if self.head.epoch < value else "is not this platform's"
            name, epoch = self._database.name, self.head.epoch
            raise RolledBackStoreError(
                f"the store {name} {which}: it is at epoch {epoch}, the platform is at {value}",
                hint="an old copy of the store was restored, it was emptied, or it comes from another machine; "
                "bring back the newest copy. The broker will not serve from this one",
            )

    def close(self) -> None:
        """Let go of the store."""
        self._database.close()


def _damaged(database: Database, error: Exception) -> StoreError:
    return StoreError(f"{database.name} holds no usable store: {error}", hint="restore the newest backup of it whole")


def _overtaken(database: Database) -> StoreError:
    return StoreError(
        f"the store {database.name} is not as this broker left it: somebody else wrote to it, or it lost commits",
        hint="nothing was decided; the broker stops. Start it again, over the newest copy of the store",
    )


_REPLACE_RECORD = (
    "INSERT INTO records (kind, key, sequence, sealed) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (kind, key) DO UPDATE SET sequence = excluded.sequence, sealed = excluded.sealed"
)
_REPLACE_SEAL = "INSERT INTO seal (id, text) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET text = excluded.text"
_READ_HEAD = "SELECT sealed FROM head WHERE id = 1"
_FIRST_HEAD = "INSERT INTO head (id, sealed) VALUES (1, ?) ON CONFLICT (id) DO NOTHING"
_NEXT_HEAD = "UPDATE head SET sealed = ? WHERE id = 1 AND sealed = ?"


def _place(kind: str, key: str, sequence: int) -> bytes:
    return frame(b"strongroom/store/record/v1", kind.encode(), key.encode(), str(sequence).encode())


__all__ = [
    "Change",
    "ClosedStore",
    "Head",
    "LedgerEnd",
    "MonotonicCounter",
    "RolledBackStoreError",
    "Store",
    "StoreError",
    "StoreInUseError",
]
