"""The tree against a naive reading of RFC 6962 §2.1, for any sizes; and no altered proof is ever accepted."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.ledger.proofs import ProofError, leaf_hash, tree_root, verify_consistency, verify_inclusion


def naive_root(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = cut(len(leaves))
    return hashlib.sha256(b"\1" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def cut(size):
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def naive_path(m, leaves):
    if len(leaves) <= 1:
        return []
    k = cut(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m, leaves, whole):
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = cut(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], False), naive_root(leaves[:k])]


def grown(leaves, pieces):
    log = MerkleLog(MemoryStore())
    at = 0
    for piece in pieces:
        log.append(leaves[at : at + piece])
        at += piece
    log.append(leaves[at:])
    return log


entries = st.lists(st.binary(max_size=6), max_size=70)


@pytest.mark.parametrize("size", range(34))
def test_root_alone_is_that_of_the_naive_tree(size):
    leaves = [bytes([n]) for n in range(size)]
    assert tree_root(leaves) == naive_root(leaves) == grown(leaves, []).root


def test_every_proof_of_every_small_tree_is_the_naive_one_and_verifies():
    leaves = [bytes([n]) for n in range(34)]
    log = grown(leaves, [])
    for size in range(1, len(leaves) + 1):
        root = naive_root(leaves[:size])
        for index in range(size):
            proof = log.inclusion_proof(index, size)
            assert proof == naive_path(index, leaves[:size])
            verify_inclusion(leaf_hash(leaves[index]), index=index, size=size, root=root, proof=proof)
        for first in range(1, size + 1):
            proof = log.consistency_proof(first, size)
            assert proof == naive_subproof(first, leaves[:size], True)
            verify_consistency(
                first=first, second=size, first_root=naive_root(leaves[:first]), second_root=root, proof=proof
            )


@given(entries, st.lists(st.integers(0, 9), max_size=6))
def test_root_does_not_depend_on_how_entries_were_grouped(leaves, pieces):
    assert grown(leaves, pieces).root == naive_root(leaves)


@settings(max_examples=150)
@given(st.data())
def test_changed_proof_leaf_or_place_is_never_accepted(data):
    leaves = data.draw(st.lists(st.binary(max_size=4), min_size=2, max_size=40, unique=True))
    log = grown(leaves, [])
    size = data.draw(st.integers(2, len(leaves)))
    index = data.draw(st.integers(0, size - 1))
    proof = log.inclusion_proof(index, size)
    root = log.root_at(size)
    at = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    bent = bytearray(proof[at])
    bent[bit // 8] ^= 1 << bit % 8
    other = data.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    attempts = [
        (leaf_hash(leaves[index]), index, [*proof[:at], bytes(bent), *proof[at + 1 :]]),
        (leaf_hash(leaves[other]), index, proof),
        (leaf_hash(leaves[index]), other, proof),
        (leaf_hash(leaves[index]), index, proof[:at]),
    ]
    for leaf, place, path in attempts:
        with pytest.raises(ProofError):
            verify_inclusion(leaf, index=place, size=size, root=root, proof=path)


@settings(max_examples=150)
@given(st.data())
def test_rewritten_history_never_has_a_consistency_proof(data):
    leaves = data.draw(st.lists(st.binary(max_size=4), min_size=2, max_size=40))
    first = data.draw(st.integers(1, len(leaves) - 1))
    changed = data.draw(st.integers(0, first - 1))
    honest = grown(leaves, [])
    rewritten = grown([*leaves[:changed], leaves[changed] + b"!", *leaves[changed + 1 :]], [])
    with pytest.raises(ProofError):
        verify_consistency(
            first=first,
            second=len(leaves),
            first_root=honest.root_at(first),
            second_root=rewritten.root,
            proof=rewritten.consistency_proof(first, len(leaves)),
        )
