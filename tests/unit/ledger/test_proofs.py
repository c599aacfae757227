"""The tree of RFC 6962: its published vectors, and every small proof against a naive reading of the RFC."""

import hashlib

import pytest
from book import Book

from strongroom.errors import LedgerError
from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.ledger.proofs import EMPTY_ROOT, ProofError, leaf_hash, verify_consistency, verify_inclusion

# The test tree of Certificate Transparency (google/certificate-transparency, merkletree/merkle_tree_test.cc).
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (leaf, size): proof
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {  # (first, second): proof
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def test_empty_tree_has_the_hash_of_nothing():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert MerkleLog(MemoryStore()).root == EMPTY_ROOT == hashlib.sha256(b"").digest()


@pytest.fixture
def log():
    log = MerkleLog(MemoryStore())
    for leaf in LEAVES:
        log.append([leaf])
    return log


def test_roots_are_those_of_the_published_tree(log):
    assert [log.root_at(size).hex() for size in range(1, 9)] == ROOTS
    assert log.root.hex() == ROOTS[-1]


def test_inclusion_proofs_are_those_of_the_published_tree(log):
    for (leaf, size), proof in INCLUSION.items():
        assert [part.hex() for part in log.inclusion_proof(leaf, size)] == proof


def test_consistency_proofs_are_those_of_the_published_tree(log):
    for (first, second), proof in CONSISTENCY.items():
        assert [part.hex() for part in log.consistency_proof(first, second)] == proof


def test_log_appended_at_once_equals_log_appended_one_by_one(log):
    other = MerkleLog(MemoryStore())
    other.append(LEAVES)
    assert other.root == log.root


def test_log_reopened_over_its_store_continues_the_same_tree():
    store = MemoryStore()
    MerkleLog(store).append(LEAVES[:5])
    reopened = MerkleLog(store)
    reopened.append(LEAVES[5:])
    assert reopened.root.hex() == ROOTS[-1]


def test_growth_that_was_not_made_durable_changes_nothing(log):
    before = (log.size, log.root)
    log.grow([b"never committed"])
    assert (log.size, log.root) == before


def test_growth_computed_on_an_older_tree_is_not_adopted(log):
    growth = log.grow([b"late"])
    log.append([b"first"])
    with pytest.raises(LedgerError, match="growth starts at 8, the ledger has 9"):
        log.adopt(growth)


@pytest.mark.parametrize(("index", "size"), [(-1, 8), (8, 8), (0, 0), (0, 9), (3, 3)])
def test_proof_of_an_entry_outside_the_tree_is_refused(log, index, size):
    with pytest.raises(LedgerError):
        log.inclusion_proof(index, size)


@pytest.mark.parametrize(("first", "second"), [(5, 4), (-1, 3), (0, 9)])
def test_consistency_proof_between_impossible_sizes_is_refused(log, first, second):
    with pytest.raises(LedgerError):
        log.consistency_proof(first, second)


def test_two_roots_of_the_same_size_are_a_fork(log):
    with pytest.raises(ProofError, match="two different roots for 8"):
        verify_consistency(first=8, second=8, first_root=log.root, second_root=leaf_hash(b"fork"), proof=[])


def test_empty_ledger_is_a_prefix_only_under_the_empty_root(log):
    verify_consistency(first=0, second=8, first_root=EMPTY_ROOT, second_root=log.root, proof=[])
    with pytest.raises(ProofError):
        verify_consistency(first=0, second=8, first_root=log.root, second_root=log.root, proof=[])


def test_inclusion_proof_of_wrong_length_is_refused(log):
    proof = log.inclusion_proof(2, 8)
    for bad in (proof[:-1], [*proof, bytes(32)], [*proof[:-1], b"short"], [bytes(32)] * 65):
        with pytest.raises(ProofError):
            verify_inclusion(leaf_hash(LEAVES[2]), index=2, size=8, root=log.root, proof=bad)


def test_log_that_grew_beyond_what_it_keeps_in_memory_proves_every_growth():
    book = Book(40)
    for size in range(40, 9000, 128):
        before, root = size, book.log.root
        book.grow(128)
        proof = book.prove(before, size + 128)
        verify_consistency(first=before, second=size + 128, first_root=root, second_root=book.log.root, proof=proof)
    verify_consistency(
        first=3,
        second=9000,
        first_root=book.log.root_at(3),
        second_root=book.log.root_at(9000),
        proof=book.prove(3, 9000),
    )
