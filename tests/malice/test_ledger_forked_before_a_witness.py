"""A broker forks, rolls back or rewrites its ledger while an independent witness follows it."""

import json
from datetime import UTC, datetime

import pytest
from book import Book

from strongroom.errors import TransportError
from strongroom.ledger.memory import CheckpointMemory, RolledBackError
from strongroom.parties.witness import Witness

NOW = datetime(2027, 1, 1, tzinfo=UTC)


def make(directory) -> Witness:
    memory = CheckpointMemory(directory / "memory.json")
    return Witness(ledger=Book().public, memory=memory, record=directory / "record.jsonl")


def record(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / "record.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "fork",
    [Book(10).grow(5, "another"), Book(3), Book(12, word="rewritten"), Book(40, word="rewritten")],
    ids=["forked", "rolled-back", "rewritten", "rewritten-longer"],
)
def test_witness_notices_and_keeps_both_signed_checkpoints(tmp_path, fork):
    honest = Book(10)
    watcher = make(tmp_path)
    watcher.observe(honest, now=NOW)
    last = watcher.observe(honest.grow(5), now=NOW)
    assert (last.size, last.grown) == (15, 5)
    with pytest.raises(RolledBackError):
        watcher.observe(fork, now=NOW)
    kept = record(tmp_path)[-1]
    for name, size in (("remembered", 15), ("shown", fork.log.size)):
        assert honest.public.verify(kept[name]).checkpoint.size == size


def test_witness_started_anew_does_not_forget(tmp_path):
    """Attack: the host shows a fork, then the old history again, and restarts the witness."""
    honest = Book(10)
    make(tmp_path).observe(honest, now=NOW)
    with pytest.raises(RolledBackError):
        make(tmp_path).observe(Book(12, word="rewritten"), now=NOW)
    with pytest.raises(RolledBackError, match="2027-01-01"):
        make(tmp_path).recall_contradiction()


def test_ledger_of_another_key_is_refused(tmp_path):
    from strongroom.errors import LedgerError
    from strongroom.statements import SigningKey

    stranger = Book(4, key=SigningKey.from_seed(bytes([7]) * 32, name="ledger"))
    with pytest.raises(LedgerError):
        make(tmp_path).observe(stranger, now=NOW)
    assert not (tmp_path / "memory.json").exists()


def test_silence_is_no_contradiction(tmp_path):
    class Silent:
        def note(self):
            raise TransportError("no answer")

    watcher = make(tmp_path)
    watcher.observe(Book(3), now=NOW)
    with pytest.raises(TransportError):
        watcher.observe(Silent(), now=NOW)
    watcher.recall_contradiction()
    assert len(record(tmp_path)) == 1


def test_honest_growth_is_recorded_once(tmp_path):
    honest, watcher = Book(2), make(tmp_path)
    for count in (0, 0, 4, 0):
        watcher.observe(honest.grow(count), now=NOW)
    assert [honest.public.verify(one["checkpoint"]).checkpoint.size for one in record(tmp_path)] == [2, 6]
