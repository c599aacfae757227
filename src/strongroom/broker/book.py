"""Write every decision down before it takes effect: ledger entry and state in one transaction (spec/4-release.md §6).

Decisions that arrive while a commit runs share the next one, so a busy broker pays one disk flush for many. A reply is
never sent before its commit; a broker whose store fails stops.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from strongroom.broker.ledger_store import SqlLogStore, write_growth
from strongroom.broker.load import Load
from strongroom.broker.tally import Tally
from strongroom.catalog.store import Change, LedgerEnd, MonotonicCounter, RolledBackStoreError, Store, StoreError
from strongroom.digests import same
from strongroom.ledger.checkpoint import Checkpoint, LedgerKey, sign_checkpoint
from strongroom.ledger.log import Growth, MerkleLog
from strongroom.statements import SigningKey

COUNTER_SECONDS = 2.0
GATHER_SECONDS = 0.008
_MAX_GROUP = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Proof to the rest of the broker that something stands in the ledger: where, and the checkpoint that covers it."""

    index: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    entries: tuple[bytes, ...]
    changes: tuple[Change, ...]
    administrative: bool
    done: asyncio.Future[Written]


class Book:
    """The committer: one task, one transaction at a time."""

    def __init__(
        self, *, store: Store, key: SigningKey, origin: str, counter: MonotonicCounter, tally: Tally, load: Load
    ) -> None:
        self._store = store
        self._key = key
        self._counter = counter
        self._counter_read = 0.0
        self._tally = tally
        self._load = load
        self._log_store = SqlLogStore(store.engine)
        self.log = MerkleLog(self._log_store)
        self.public = LedgerKey(origin=origin, key=key.public)
        head = store.head
        if head.commits and (head.size != self.log.size or not same(bytes.fromhex(head.root), self.log.root)):
            raise StoreError(
                f"the ledger in the store has {self.log.size} entries that do not match the {head.size} committed",
                hint="the store was changed from outside; restore the newest backup of the whole directory",
            )
        self._take_note(self._sign(self.log.size, self.log.root))
        self._queue: list[_Waiting] = []
        self._wake, self._enough = asyncio.Event(), asyncio.Event()
        self._expected = 1  # how many decisions the next commit could have
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="book")
        self._failed: Exception | None = None
        self.failure: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def write(self, *entries: bytes, changes: Sequence[Change] = (), administrative: bool = False) -> Written:
        """Return once ``entries`` (encoded) and ``changes`` are durable together; the index is the first entry's.

        ``administrative`` changes also advance the platform's counter first, so that a store from before them is
        refused at the next start.
        """
        if self._failed is not None:
            raise StoreError("the broker's store failed earlier") from self._failed
        done: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(entries=entries, changes=tuple(changes), administrative=administrative, done=done))
        self._wake.set()
        if len(self._queue) >= self._expected:
            self._enough.set()
        return await done

    async def stand_alone(self) -> None:
        """Return if this broker is known to be alone with its store; raise StoreError, and stop serving, if not.

        What is decided without writing anything down asks here, or a broker over an old copy could go on for ever.
        """
        if self._failed is None and time.monotonic() - self._counter_read >= COUNTER_SECONDS:
            try:
                await asyncio.get_running_loop().run_in_executor(self._disk, self._look_around)
            except Exception as error:  # noqa: BLE001  whatever it is, the store may be an old copy
                self._fail(error, ())  # A commit that is on its way fails by itself.
        if self._failed is not None:
            raise StoreError("the broker's store failed earlier") from self._failed

    async def close(self) -> None:
        """Finish what is queued and stop."""
        while self._queue and self._failed is None:
            await asyncio.sleep(0.01)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._disk.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            if len(self._queue) < self._expected and self._load.is_busy():
                await self._gather()  # Others are on their way: a moment's patience makes one commit of many.
            group, self._queue = self._queue[:_MAX_GROUP], self._queue[_MAX_GROUP:]
            if not self._queue:
                self._wake.clear()
            if not group:
                continue
            growth = self.log.grow([entry for waiting in group for entry in waiting.entries])
            begun = time.monotonic()
            try:
                note = await loop.run_in_executor(self._disk, self._commit, group, growth)
            except Exception as error:  # noqa: BLE001  whatever it is, the store cannot be trusted to have it
                self._fail(error, group)
                return
            self._tally.count_commit(seconds=time.monotonic() - begun, entries=len(growth.entries))
            self.log.adopt(growth)
            self._take_note(note)
            # Those who are answered now will ask again beside those who came meanwhile: one commit can have them all.
            self._expected = len(group) + len(self._queue)
            index = growth.start
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_result(Written(index=index, note=note))
                index += len(waiting.entries)

    async def _gather(self) -> None:
        """Wait until as many decisions are here as could be, or for a few milliseconds."""
        self._enough.clear()
        late = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._enough.set)
        await self._enough.wait()
        late.cancel()

    def _commit(self, group: Sequence[_Waiting], growth: Growth) -> str:
        """Commit in the book's own thread: state and entries, then the counter, then the signature."""
        administrative = any(waiting.administrative for waiting in group)
        self._check_alone(force=administrative)
        epoch = self._store.head.epoch + (1 if administrative else 0)
        changes = [change for waiting in group for change in waiting.changes]
        root = growth.root
        self._store.commit(
            changes,
            epoch=epoch,
            ledger=LedgerEnd(size=growth.size, root=root, write=lambda cursor: write_growth(cursor, growth)),
        )
        if administrative:
            self._counter.advance_to(epoch)
        return self._sign(growth.size, root)

    def _look_around(self) -> None:
        """Notice that another broker wrote to this store, or was started over a copy of it."""
        self._store.check_head()
        self._check_alone(force=False)

    def _check_alone(self, *, force: bool) -> None:
        """Notice within two seconds that another broker was started over a copy of this store."""
        now = time.monotonic()
        if not force and now - self._counter_read < COUNTER_SECONDS:
            return
        value = self._counter.read()
        if value != self._store.head.epoch:
            raise RolledBackStoreError(
                f"the platform's counter is at {value}, this broker's store at {self._store.head.epoch}",
                hint="another broker was started over a copy of this store; only the newest one serves",
            )
        self._counter_read = now

    def _take_note(self, note: str) -> None:
        self.note = note
        self.note_header = base64.b64encode(note.encode()).decode()

    def _sign(self, size: int, root: bytes) -> str:
        checkpoint = Checkpoint(origin=self.public.origin, size=size, root=root)
        return sign_checkpoint(checkpoint, self._key).encode()

    def _fail(self, error: Exception, group: Sequence[_Waiting]) -> None:
        self._failed = error
        for waiting in (*group, *self._queue):
            if not waiting.done.done():
                waiting.done.set_exception(StoreError("the broker's store failed; nothing was decided"))
        self._queue.clear()
        if not self.failure.done():
            self.failure.set_result(error)
