"""A small ledger to tell stories with."""

from datetime import UTC, datetime, timedelta

from strongroom.ledger.checkpoint import Checkpoint, LedgerKey, sign_checkpoint
from strongroom.ledger.entry import Entry, EntryKind
from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.statements import SigningKey

START = datetime(2027, 1, 1, tzinfo=UTC)
ORIGIN = "broker.strongroom/test"


class Book:
    def __init__(self, size=0, *, key=None, word="honest"):
        self.key = key or SigningKey.from_seed(bytes(32), name="ledger")
        self.public = LedgerKey(origin=ORIGIN, key=self.key.public)
        self.log = MerkleLog(MemoryStore())
        self.grow(size, word)

    def grow(self, count, word="honest"):
        first = self.log.size
        self.log.append([entry(first + n, word) for n in range(count)])
        return self

    def signed(self, size=None):
        size = self.log.size if size is None else size
        return sign_checkpoint(Checkpoint(origin=ORIGIN, size=size, root=self.log.root_at(size)), self.key)

    def note(self, size=None):
        return self.signed(size).encode()

    def prove(self, first, second):
        return self.log.consistency_proof(first, second)


def entry(index, word="honest"):
    kind = EntryKind.GRANT if index % 3 else EntryKind.REFUSAL
    reasons = () if kind is EntryKind.GRANT else ("the policy expired",)
    moment = START + timedelta(seconds=index)
    return Entry(kind=kind, time=moment, facts={"job": f"{word}-{index}"}, reasons=reasons).encode()
