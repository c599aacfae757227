"""What a client remembers: growth is believed with a proof, everything else is a rollback."""

import json
import threading

import pytest
from book import Book

from strongroom.errors import LedgerError
from strongroom.ledger.memory import CheckpointMemory, RolledBackError
from strongroom.statements import SigningKey


@pytest.fixture
def memory(tmp_path):
    return CheckpointMemory(tmp_path / "ledger.json")


def no_proof(first, second):
    raise LedgerError(f"the ledger cannot prove {first} to {second}")


def test_first_checkpoint_is_remembered(memory):
    book = Book(5)
    assert memory.recall() is None
    assert memory.check(book.note(), ledger=book.public, prove=no_proof).checkpoint.size == 5
    key, signed = CheckpointMemory(memory.path).recall()
    assert signed.checkpoint.size == 5
    assert key.encode() == book.public.encode()


def test_grown_ledger_is_believed_with_a_proof(memory):
    book = Book(5)
    memory.check(book.note(), ledger=book.public, prove=book.prove)
    book.grow(8)
    memory.check(book.note(), ledger=book.public, prove=book.prove)
    assert memory.recall()[1].checkpoint.size == 13


def test_grown_ledger_without_a_proof_is_a_rollback(memory):
    book = Book(5)
    memory.check(book.note(), ledger=book.public, prove=book.prove)
    with pytest.raises(RolledBackError):
        memory.check(book.grow(1).note(), ledger=book.public, prove=no_proof)
    assert memory.recall()[1].checkpoint.size == 5


def test_shorter_ledger_is_a_rollback(memory):
    memory.check(Book(9).note(), ledger=Book().public, prove=no_proof)
    restored = Book(4)
    with pytest.raises(RolledBackError, match="4 entries that do not agree with the 9 remembered"):
        memory.check(restored.note(), ledger=restored.public, prove=restored.prove)


def test_answer_overtaken_by_a_later_one_is_not_a_rollback(memory):
    book = Book(9)
    memory.check(book.note(9), ledger=book.public, prove=book.prove)
    assert memory.check(book.note(6), ledger=book.public, prove=book.prove).checkpoint.size == 6
    assert memory.recall()[1].checkpoint.size == 9


def test_forked_ledger_of_the_same_length_is_a_rollback(memory):
    memory.check(Book(9).note(), ledger=Book().public, prove=no_proof)
    with pytest.raises(RolledBackError, match="two different roots"):
        memory.check(Book(9, word="forked").note(), ledger=Book().public, prove=no_proof)


def test_longer_ledger_with_another_history_is_a_rollback(memory):
    memory.check(Book(9).note(), ledger=Book().public, prove=no_proof)
    forked = Book(12, word="forked")
    with pytest.raises(RolledBackError, match="does not continue"):
        memory.check(forked.note(), ledger=forked.public, prove=forked.prove)


def test_ledger_with_another_key_is_a_rollback(memory):
    memory.check(Book(2).note(), ledger=Book().public, prove=no_proof)
    replaced = Book(2, key=SigningKey.generate(name="ledger"))
    with pytest.raises(RolledBackError, match="another key, another history"):
        memory.check(replaced.note(), ledger=replaced.public, prove=replaced.prove)


def test_damaged_memory_is_an_error_and_never_a_fresh_start(memory):
    book = Book(3)
    memory.check(book.note(), ledger=book.public, prove=no_proof)
    good = memory.path.read_text()
    for bad in ("{", "[]", json.dumps({"ledger": 1, "checkpoint": 2}), good.replace("\\n3\\n", "\\n2\\n"), good[:-9]):
        memory.path.write_text(bad)
        with pytest.raises(LedgerError, match="damaged"):
            memory.check(book.note(), ledger=book.public, prove=book.prove)


def test_memory_carried_into_another_process_refuses_the_same_rollback(memory, tmp_path):
    memory.check(Book(9).note(), ledger=Book().public, prove=no_proof)
    carried = CheckpointMemory.carried(tmp_path / "elsewhere.json", memory.carry())
    restored = Book(4)
    with pytest.raises(RolledBackError):
        carried.check(restored.note(), ledger=restored.public, prove=restored.prove)


def test_many_threads_sharing_one_memory_never_lose_the_newest(memory):
    book = Book(40)
    failures = []

    def look(size):
        try:
            CheckpointMemory(memory.path).check(book.note(size), ledger=book.public, prove=book.prove)
        except LedgerError as error:
            failures.append(error)

    threads = [threading.Thread(target=look, args=(size,)) for size in range(1, 41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert memory.recall()[1].checkpoint.size == 40
    assert [path.name for path in memory.path.parent.iterdir() if path.name.startswith(".")] == []
