"""Hash and prove, by RFC 6962 section 2.1 (verification: RFC 9162 sections 2.1.3.2 and 2.1.4.2; spec/5-ledger.md §2).

Pure: a proof is first a list of ranges of leaves, and whoever holds the tree looks their hashes up. The two prefixes
are RFC 6962's own domain separation, which is why :mod:`strongroom.digests` is not used here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from strongroom.digests import same
from strongroom.errors import LedgerError

HASH_BYTES = 32
MAX_PROOF = 64  # No tree with fewer than 2^63 leaves has a longer proof.
EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofError(LedgerError):
    """A proof does not lead to the root it should lead to."""


class LeafRange(NamedTuple):
    """The leaves from ``start`` up to, not including, ``end``."""

    start: int
    end: int


class Place(NamedTuple):
    """Where a complete subtree's hash stands: ``position`` counts subtrees of ``2**level`` leaves from the left."""

    level: int
    position: int


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry as a leaf."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(entries: Sequence[bytes]) -> bytes:
    """Return the root hash over ``entries`` (RFC 6962 section 2.1) where nothing but the root is wanted."""
    if not entries:
        return fold(())
    level = [hashlib.sha256(b"\x00" + entry).digest() for entry in entries]
    while len(level) > 1:
        # A node without a sibling goes up as it is, which is the same tree as one split at powers of two.
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in pairs] + level[len(level) & ~1 :]
    return level[0]


def split(size: int) -> int:
    """Return the largest power of two smaller than ``size`` (at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def places(span: LeafRange) -> list[Place]:
    """Return the complete subtrees that make up ``span``, left to right.

    ``span`` starts where a subtree at least as large as itself may start, which holds for every range of a proof.
    """
    found = []
    start = span.start
    while start < span.end:
        level = (span.end - start).bit_length() - 1
        found.append(Place(level, start >> level))
        start += 1 << level
    return found


def fold(peaks: Sequence[bytes]) -> bytes:
    """Return the hash over complete subtrees of falling size, left to right; the empty tree has its own."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def inclusion_ranges(index: int, size: int) -> list[LeafRange]:
    """Return the ranges whose hashes prove that leaf ``index`` is in the tree of ``size``, leaf to root."""
    if not 0 <= index < size:
        raise LedgerError(
            f"no entry {index} in a ledger of {size} entries", hint="ask for an index below the checkpoint's size"
        )
    found: list[LeafRange] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            found.append(LeafRange(middle, end))
            end = middle
        else:
            found.append(LeafRange(start, middle))
            start = middle
    found.reverse()
    return found


def consistency_ranges(first: int, second: int) -> list[LeafRange]:
    """Return the ranges whose hashes prove that the tree of ``first`` leaves is a prefix of that of ``second``."""
    if not 0 <= first <= second:
        raise LedgerError(
            f"no consistency proof from size {first} to size {second}", hint="the first size must not exceed the second"
        )
    if first in (0, second):
        return []
    found: list[LeafRange] = []
    start, end = 0, second
    while end != first:
        middle = start + split(end - start)
        if first <= middle:
            found.append(LeafRange(middle, end))
            end = middle
        else:
            found.append(LeafRange(start, middle))
            start = middle
    if start:  # The old tree is not a subtree of the new one: the proof begins with its last piece.
        found.append(LeafRange(start, end))
    found.reverse()
    return found


def verify_inclusion(leaf: bytes, *, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Raise ProofError unless ``proof`` shows ``leaf`` (a leaf hash) at ``index`` in the tree of ``size``, ``root``."""
    _check_shape(proof, root)
    if not 0 <= index < size:
        raise ProofError(f"no entry {index} in a ledger of {size} entries")
    node, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofError("the inclusion proof is too long")
        if node & 1 or node == last:
            found = node_hash(step, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, step)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofError("the inclusion proof is too short")
    if not same(found, root):
        raise ProofError(
            f"the inclusion proof of entry {index} does not lead to the checkpoint's root",
            hint="the entry was changed, or the ledger was rewritten; keep the checkpoint and tell the other parties",
        )


def verify_consistency(  # noqa: PLR0912  the branches are the RFC's own
    *, first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise ProofError unless ``proof`` shows that the first tree is a prefix of the second."""
    _check_shape(proof, first_root, second_root)
    if not 0 <= first <= second:
        raise ProofError(f"the ledger cannot shrink from {first} to {second} entries")
    if first in (0, second):
        if proof:
            raise ProofError("a consistency proof from an empty tree, or between equal ones, is empty")
        if (first == second and not same(first_root, second_root)) or (first == 0 and not same(first_root, EMPTY_ROOT)):
            raise ProofError(f"two different roots for {first} entries")
        return
    if not proof:
        raise ProofError("the consistency proof is empty")
    # RFC 9162 section 2.1.4.2: a complete old tree is its own first element.
    steps = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if node & 1 or node == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, step)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofError("the consistency proof is too short")
    if not same(old, first_root) or not same(new, second_root):
        raise ProofError(
            f"the ledger of {second} entries does not continue the ledger of {first} entries",
            hint="the ledger was rewritten; keep both checkpoints and tell the other parties",
        )


def _check_shape(proof: Sequence[bytes], *roots: bytes) -> None:
    if len(proof) > MAX_PROOF:
        raise ProofError(f"a proof has at most {MAX_PROOF} hashes, got {len(proof)}")
    if any(len(part) != HASH_BYTES for part in (*proof, *roots)):
        raise ProofError(f"every hash in a proof has {HASH_BYTES} bytes")
