"""Keep the ledger in the broker's database, in the clear: one row for each commit's entries and hashes (spec/5 §4).

Entries hold no secret, and the tree with its signed checkpoints authenticates them: changing one here changes the root.
Where a hash stands in its row follows from the shape of the tree, so nothing but entries and hashes is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from strongroom.catalog.databases import Cursor
from strongroom.errors import LedgerError
from strongroom.ledger.log import Growth
from strongroom.ledger.proofs import HASH_BYTES, LeafRange, Place

METADATA = sa.MetaData()
ROWS = sa.Table(
    "ledger",
    METADATA,
    sa.Column("start", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("entries", sa.LargeBinary, nullable=False),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
)
_FRAME = 2
_INSERT = "INSERT INTO ledger (start, size, entries, hashes) VALUES (?, ?, ?, ?)"
_SIZE = sa.select(sa.func.sum(ROWS.c.size), sa.func.max(ROWS.c.start + ROWS.c.size))


class SqlLogStore:
    """The ledger's rows; appends happen inside the transaction of the decision they belong to."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def size(self) -> int:
        """Return the number of entries; raise LedgerError if a row is missing."""
        with self._engine.connect() as connection:
            held, end = connection.execute(_SIZE).one()
        if held != end:
            raise LedgerError(f"the ledger ends at entry {end}, and the store has {held} entries")
        return int(held or 0)

    def entries(self, span: LeafRange) -> list[bytes]:
        """Return the entries of ``span``."""
        if span.start == span.end:
            return []
        first = sa.select(sa.func.max(ROWS.c.start)).where(ROWS.c.start <= span.start).scalar_subquery()
        wanted = sa.select(ROWS.c.start, ROWS.c.entries).where(ROWS.c.start >= first, ROWS.c.start < span.end)
        found: list[bytes] = []
        with self._engine.connect() as connection:
            for start, framed in connection.execute(wanted.order_by(ROWS.c.start)):
                for index, entry in enumerate(_unframe(framed), start=start):
                    if span.start <= index < span.end:
                        found.append(entry)
        if len(found) != span.end - span.start:
            raise LedgerError(f"entries {span.start} to {span.end} are not all in the store")
        return found

    def nodes(self, wanted: Sequence[Place]) -> list[bytes]:
        """Return the hashes at ``wanted``, in that order."""
        with self._engine.connect() as connection:
            return [_read_hash(connection, place) for place in wanted]

    def append(self, growth: Growth) -> None:
        """Make ``growth`` durable in a transaction of its own."""
        if growth.entries:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(ROWS).values(_row(growth)))


def read_rows(connection: sa.Connection) -> Iterator[tuple[int, list[bytes], bytes]]:
    """Yield the rows of a ledger in order: where each starts, its entries and its hashes; nothing is verified."""
    wanted = sa.select(ROWS.c.start, ROWS.c.entries, ROWS.c.hashes).order_by(ROWS.c.start)
    for start, framed, hashes in connection.execution_options(stream_results=True).execute(wanted):
        yield start, list(_unframe(framed)), bytes(hashes)


def write_growth(cursor: Cursor, growth: Growth) -> None:
    """Write ``growth`` inside a transaction that somebody else commits."""
    if growth.entries:
        cursor.execute(_INSERT, _row(growth))


def _row(growth: Growth) -> tuple[int, int, bytes, bytes]:
    framed = b"".join(len(entry).to_bytes(_FRAME, "big") + entry for entry in growth.entries)
    return growth.start, len(growth.entries), framed, b"".join(growth.nodes.values())


def hashes_before(leaf: int) -> int:
    """Return how many hashes a log writes for the leaves before ``leaf``.

    Leaf ``j`` brings its own hash and one for each subtree that it completes: as many as ones that ``j`` ends in.
    """
    return 2 * leaf - leaf.bit_count()


def _read_hash(connection: sa.Connection, place: Place) -> bytes:
    leaf = ((place.position + 1) << place.level) - 1  # the one that completes the subtree
    row = connection.execute(
        sa.select(ROWS.c.start, ROWS.c.hashes).where(ROWS.c.start <= leaf).order_by(ROWS.c.start.desc()).limit(1)
    ).first()
    if row is not None and isinstance(row.hashes, bytes):
        at = HASH_BYTES * (hashes_before(leaf) + place.level - hashes_before(row.start))
        found = row.hashes[at : at + HASH_BYTES]
        if len(found) == HASH_BYTES:
            return found
    raise LedgerError(f"the hash at level {place.level}, position {place.position} of the ledger is not in the store")


def _unframe(framed: object) -> Iterator[bytes]:
    """Yield a row's entries, each preceded by its length as in tlog-tiles; raise LedgerError if it is damaged."""
    at = 0
    while isinstance(framed, bytes) and at < len(framed):
        end = at + _FRAME + int.from_bytes(framed[at : at + _FRAME], "big")
        if at + _FRAME > len(framed) or end > len(framed):
            raise LedgerError("a row of the ledger is damaged")
        yield framed[at + _FRAME : end]
        at = end
