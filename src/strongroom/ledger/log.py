"""Grow a Merkle tree of entries and answer for it (spec/5-ledger.md §2).

The log computes what an append changes without changing anything; the store makes it durable, together with whatever
state belongs to the same decision, and only then does the log adopt it. Nothing is ever rewritten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from strongroom.errors import LedgerError
from strongroom.ledger.entry import MAX_ENTRY_BYTES
from strongroom.ledger.proofs import (
    LeafRange,
    Place,
    consistency_ranges,
    fold,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    places,
)

_MOST_KEPT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What appending ``entries`` at ``start`` adds to the store, and the tree afterwards."""

    start: int
    entries: tuple[bytes, ...]
    nodes: Mapping[Place, bytes]
    peaks: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Return the number of entries afterwards."""
        return self.start + len(self.entries)

    @property
    def root(self) -> bytes:
        """Return the root hash afterwards."""
        return fold(self.peaks)


class LogStore(Protocol):
    """Where entries and the hashes of complete subtrees are kept."""

    def size(self) -> int:
        """Return the number of entries."""

    def entries(self, span: LeafRange) -> list[bytes]:
        """Return the entries of ``span``."""

    def nodes(self, wanted: Sequence[Place]) -> list[bytes]:
        """Return the hashes at ``wanted``, in that order."""

    def append(self, growth: Growth) -> None:
        """Make ``growth`` durable, or raise and change nothing."""


class MemoryStore:
    """A store that forgets everything with the process; for tests and for checking exports."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []
        self._nodes: dict[Place, bytes] = {}

    def size(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def entries(self, span: LeafRange) -> list[bytes]:
        """Return the entries of ``span``."""
        return self._entries[span.start : span.end]

    def nodes(self, wanted: Sequence[Place]) -> list[bytes]:
        """Return the hashes at ``wanted``, in that order."""
        return [self._nodes[place] for place in wanted]

    def append(self, growth: Growth) -> None:
        """Keep ``growth``."""
        self._entries.extend(growth.entries)
        self._nodes.update(growth.nodes)


class MerkleLog:
    """An append-only log: entries in, roots and proofs out.

    The hashes met last stay in memory, since those who follow a growing log ask for them again and again; a complete
    subtree's never changes.
    """

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._kept: OrderedDict[Place, bytes] = OrderedDict()
        self._size = store.size()
        self._peaks = tuple(store.nodes(places(LeafRange(0, self._size))))

    @property
    def size(self) -> int:
        """Return the number of entries adopted."""
        return self._size

    @property
    def root(self) -> bytes:
        """Return the root hash over every entry adopted."""
        return fold(self._peaks)

    def grow(self, entries: Sequence[bytes]) -> Growth:
        """Return what appending ``entries`` would add; change nothing."""
        peaks = list(self._peaks)
        nodes: dict[Place, bytes] = {}
        for index, entry in enumerate(entries, start=self._size):
            if len(entry) > MAX_ENTRY_BYTES:
                raise LedgerError(f"an entry has at most {MAX_ENTRY_BYTES} bytes, got {len(entry)}")
            place, found = Place(0, index), leaf_hash(entry)
            nodes[place] = found
            while place.position & 1:
                place, found = Place(place.level + 1, place.position >> 1), node_hash(peaks.pop(), found)
                nodes[place] = found
            peaks.append(found)
        return Growth(start=self._size, entries=tuple(entries), nodes=nodes, peaks=tuple(peaks))

    def adopt(self, growth: Growth) -> None:
        """Take over ``growth``, which the store has made durable."""
        if growth.start != self._size:
            raise LedgerError(f"growth starts at {growth.start}, the ledger has {self._size} entries")
        self._size, self._peaks = growth.size, growth.peaks
        self._keep(growth.nodes)

    def append(self, entries: Sequence[bytes]) -> range:
        """Append ``entries`` durably and return their indices."""
        growth = self.grow(entries)
        self._store.append(growth)
        self.adopt(growth)
        return range(growth.start, growth.size)

    def entries(self, start: int, end: int) -> list[bytes]:
        """Return the entries from ``start`` up to, not including, ``end``."""
        if not 0 <= start <= end <= self._size:
            raise LedgerError(f"no entries {start} to {end} in a ledger of {self._size} entries")
        return self._store.entries(LeafRange(start, end))

    def root_at(self, size: int) -> bytes:
        """Return the root hash the ledger had at ``size`` entries."""
        self._check_size(size)
        return fold(self._store.nodes(places(LeafRange(0, size))))

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """Return the proof that entry ``index`` is in the tree of ``size`` (RFC 6962 section 2.1.1)."""
        self._check_size(size)
        return self._hashes(inclusion_ranges(index, size))

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the tree of ``first`` is a prefix of that of ``second`` (RFC 6962 section 2.1.2)."""
        self._check_size(second)
        return self._hashes(consistency_ranges(first, second))

    def _check_size(self, size: int) -> None:
        if not 0 <= size <= self._size:
            raise LedgerError(f"the ledger has {self._size} entries, asked about {size}")

    def _hashes(self, spans: Sequence[LeafRange]) -> list[bytes]:
        pieces = [places(span) for span in spans]
        wanted = {place for piece in pieces for place in piece}
        known = {place: self._kept[place] for place in wanted if place in self._kept}
        missing = sorted(wanted - known.keys())
        if missing:
            found = dict(zip(missing, self._store.nodes(missing), strict=True))
            known |= found
            self._keep(found)
        return [fold([known[place] for place in piece]) for piece in pieces]

    def _keep(self, nodes: Mapping[Place, bytes]) -> None:
        """Keep ``nodes`` and forget the oldest beyond what is kept."""
        self._kept.update(nodes)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
