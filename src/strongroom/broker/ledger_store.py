"""Keep the ledger's entries and hashes in the broker's database, in the clear (spec/5-ledger.md §4).

Entries hold no secret, and the tree with its signed checkpoints authenticates them: changing one here changes the root.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from strongroom.errors import LedgerError
from strongroom.ledger.log import Growth
from strongroom.ledger.proofs import LeafRange, Place

METADATA = sa.MetaData()
ENTRIES = sa.Table(
    "ledger_entries",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)
NODES = sa.Table(
    "ledger_nodes",
    METADATA,
    sa.Column("level", sa.Integer, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
_INSERT_ENTRY = ENTRIES.insert()
_INSERT_NODE = NODES.insert()


class SqlLogStore:
    """The ledger's rows; appends happen inside the transaction of the decision they belong to."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def size(self) -> int:
        """Return the number of entries."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(ENTRIES)).scalar_one())

    def entries(self, span: LeafRange) -> list[bytes]:
        """Return the entries of ``span``."""
        wanted = sa.select(ENTRIES.c.entry).where(ENTRIES.c.position >= span.start, ENTRIES.c.position < span.end)
        with self._engine.connect() as connection:
            found = list(connection.execute(wanted.order_by(ENTRIES.c.position)).scalars())
        if len(found) != span.end - span.start:
            raise LedgerError(f"entries {span.start} to {span.end} are not all in the store")
        return found

    def nodes(self, wanted: Sequence[Place]) -> list[bytes]:
        """Return the hashes at ``wanted``, in that order."""
        by_level: dict[int, list[int]] = defaultdict(list)
        for place in wanted:
            by_level[place.level].append(place.position)
        found: dict[tuple[int, int], bytes] = {}
        with self._engine.connect() as connection:
            for level, positions in by_level.items():
                rows = connection.execute(
                    sa.select(NODES.c.position, NODES.c.hash).where(
                        NODES.c.level == level, NODES.c.position.in_(positions)
                    )
                )
                found.update({(level, position): node for position, node in rows})
        try:
            return [found[place] for place in wanted]
        except KeyError as error:
            raise LedgerError("hashes of the ledger are missing from the store") from error

    def append(self, growth: Growth) -> None:
        """Make ``growth`` durable in a transaction of its own."""
        with self._engine.begin() as connection:
            write_growth(connection, growth)


def write_growth(connection: sa.Connection, growth: Growth) -> None:
    """Write ``growth`` inside a transaction that somebody else commits."""
    if not growth.entries:
        return
    rows = [{"position": growth.start + offset, "entry": entry} for offset, entry in enumerate(growth.entries)]
    connection.execute(_INSERT_ENTRY, rows)
    nodes = [{"level": place.level, "position": place.position, "hash": node} for place, node in growth.nodes.items()]
    connection.execute(_INSERT_NODE, nodes)
