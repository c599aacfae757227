"""However commits fall, the ledger's rows give back every entry and every hash, and damaged ones are errors of ours."""

import contextlib

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.broker.ledger_store import METADATA, ROWS, SqlLogStore, hashes_before
from strongroom.errors import LedgerError
from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.ledger.proofs import LeafRange


def stored():
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    METADATA.create_all(engine)
    return engine, SqlLogStore(engine)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=9), max_size=12), st.data())
def test_rows_hold_what_a_log_in_memory_holds(commits, data):
    engine, store = stored()
    log, reference = MerkleLog(store), MerkleLog(MemoryStore())
    for entries in commits:
        log.append(entries)
        reference.append(entries)
    size = sum(map(len, commits))
    assert store.size() == size
    assert MerkleLog(store).root == log.root == reference.root
    start = data.draw(st.integers(0, size))
    end = data.draw(st.integers(start, size))
    assert log.entries(start, end) == reference.entries(start, end)
    if size:
        index = data.draw(st.integers(0, size - 1))
        assert log.inclusion_proof(index, size) == reference.inclusion_proof(index, size)
        assert log.consistency_proof(index, size) == reference.consistency_proof(index, size)
    engine.dispose()


@given(st.integers(0, 5000))
def test_number_of_hashes_before_a_leaf_is_what_the_log_writes(leaf):
    assert hashes_before(leaf + 1) - hashes_before(leaf) == 1 + len(bin(~leaf & (leaf + 1))) - 3


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["entries", "hashes"]), st.one_of(st.binary(max_size=200), st.text(max_size=5)))
def test_damaged_row_is_an_error_or_other_bytes_and_never_a_crash(column, value):
    engine, store = stored()
    log = MerkleLog(store)
    log.append([b"one", b"two", b"three"])
    with engine.begin() as connection:
        connection.execute(sa.text(f"update ledger set {column} = :value"), {"value": value})
    for read in (lambda: store.entries(LeafRange(0, 3)), lambda: log.inclusion_proof(0, 3)):
        with contextlib.suppress(LedgerError):
            assert all(isinstance(part, bytes) for part in read())
    engine.dispose()


def test_missing_row_is_noticed_by_the_size():
    engine, store = stored()
    log = MerkleLog(store)
    for entry in (b"one", b"two", b"three"):
        log.append([entry])
    with engine.begin() as connection:
        connection.execute(ROWS.delete().where(ROWS.c.start == 1))
    with pytest.raises(LedgerError, match="ends at entry 3, and the store has 2"):
        store.size()
    with pytest.raises(LedgerError, match="not all in the store"):
        store.entries(LeafRange(0, 3))
    engine.dispose()
