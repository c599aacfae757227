"""A broker shows one history to the owner and another to the analyst; it comes out when they compare."""

import pytest
from book import Book

from strongroom.ledger.memory import CheckpointMemory, RolledBackError


def test_two_parties_who_compare_checkpoints_notice_a_split_view(tmp_path):
    common = 10
    for_owner, for_analyst = Book(common).grow(5, "revoked"), Book(common).grow(7, "granted")
    owner, analyst = CheckpointMemory(tmp_path / "owner.json"), CheckpointMemory(tmp_path / "analyst.json")
    owner.check(for_owner.note(), ledger=for_owner.public, prove=for_owner.prove)
    analyst.check(for_analyst.note(), ledger=for_analyst.public, prove=for_analyst.prove)
    for book in (for_owner, for_analyst):
        with pytest.raises(RolledBackError):
            analyst.check(owner.recall()[1].encode(), ledger=book.public, prove=book.prove)


def test_two_parties_on_one_history_agree(tmp_path):
    book = Book(10)
    owner, analyst = CheckpointMemory(tmp_path / "owner.json"), CheckpointMemory(tmp_path / "analyst.json")
    owner.check(book.note(), ledger=book.public, prove=book.prove)
    analyst.check(book.grow(3).note(), ledger=book.public, prove=book.prove)
    analyst.check(owner.recall()[1].encode(), ledger=book.public, prove=book.prove)
