"""Whoever holds the ledger's own key rewrites history and signs it: valid everywhere, except for those who remember."""

import pytest
from book import Book

from strongroom.ledger.export import check_export, write_export
from strongroom.ledger.memory import CheckpointMemory, RolledBackError


@pytest.fixture
def remembering(tmp_path):
    memory = CheckpointMemory(tmp_path / "memory.json")
    honest = Book(20)
    memory.check(honest.note(), ledger=honest.public, prove=honest.prove)
    return memory


@pytest.mark.parametrize("size", [5, 19, 20, 21, 64])
def test_client_that_remembers_is_not_fooled(remembering, size):
    rewritten = Book(size, word="rewritten")
    with pytest.raises(RolledBackError):
        remembering.check(rewritten.note(), ledger=rewritten.public, prove=rewritten.prove)
    assert remembering.recall()[1].checkpoint.size == 20


def test_one_changed_entry_under_a_thousand_new_ones_is_not_forgotten(remembering):
    rewritten = Book(13).grow(1, "changed").grow(1006)
    with pytest.raises(RolledBackError):
        remembering.check(rewritten.note(), ledger=rewritten.public, prove=rewritten.prove)


def test_proof_of_the_honest_history_does_not_help_the_rewritten_one(remembering):
    honest, rewritten = Book(40), Book(40, word="rewritten")
    with pytest.raises(RolledBackError):
        remembering.check(rewritten.note(), ledger=rewritten.public, prove=honest.prove)


def test_auditor_with_the_remembered_checkpoint_sees_it_offline(remembering, tmp_path):
    rewritten = Book(40, word="rewritten")
    directory = tmp_path / "export"
    write_export(directory, entries=rewritten.log.entries(0, 40), signed=rewritten.signed(), ledger=rewritten.public)
    remembered = remembering.recall()[1].checkpoint
    assert check_export(directory, rewritten.public, remembered=None).good
    assert not check_export(directory, rewritten.public, remembered=remembered).good
