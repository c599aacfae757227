"""Decisions share a commit where that saves work, wait for nobody where it does not, and are on disk when answered."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace

import pytest

from strongroom.broker.book import Book
from strongroom.broker.ledger_store import METADATA
from strongroom.broker.tally import Tally
from strongroom.catalog.store import Change, ClosedStore, StoreError
from strongroom.statements import SigningKey

SEALING_KEY = bytes(32)
COUNTER = SimpleNamespace(read=lambda: 0, advance_to=lambda _value: None)


@asynccontextmanager
async def opened(place, *, busy):
    closed = ClosedStore.hold(place, tables=[METADATA])
    store, tally = closed.open(SEALING_KEY), Tally()
    list(store.load())
    key, load = SigningKey.generate(name="ledger"), SimpleNamespace(is_busy=lambda: busy)
    book = Book(store=store, key=key, origin="test", counter=COUNTER, tally=tally, load=load)
    try:
        yield book, tally
    finally:
        await book.close()
        closed.close()


async def ask(book, *entries, apart=0):
    """Have several callers write at once, or each only after the loop went around ``apart`` times."""
    tasks = []
    for entry in entries:
        tasks.append(asyncio.create_task(book.write(entry)))
        for _ in range(apart):
            await asyncio.sleep(0)
    return [written.index for written in await asyncio.gather(*tasks)]


def commits_of_callers_that_come_again_one_by_one(place, *, busy):
    async def story():
        async with opened(place, busy=busy) as (book, tally):
            assert await ask(book, b"1", b"2", b"3") == [0, 1, 2]
            first = sum(tally.commits)
            assert sorted(await ask(book, b"4", b"5", b"6", apart=5)) == [3, 4, 5]
            return first, sum(tally.commits) - first

    return asyncio.run(story())


def test_busy_broker_commits_once_for_all_who_come_again(tmp_path):
    assert commits_of_callers_that_come_again_one_by_one(tmp_path, busy=True) == (1, 1)


def test_idle_broker_keeps_nobody_waiting_for_others(tmp_path):
    first, again = commits_of_callers_that_come_again_one_by_one(tmp_path, busy=False)
    assert (first, again > 1) == (1, True)


def test_busy_broker_does_not_wait_for_ever_for_callers_that_left(tmp_path):
    async def story():
        async with opened(tmp_path, busy=True) as (book, _):
            await ask(book, b"1", b"2", b"3")
            return await asyncio.wait_for(ask(book, b"4"), 10)

    assert asyncio.run(story()) == [3]


@pytest.mark.parametrize("busy", [True, False])
def test_entry_and_record_are_on_disk_before_the_answer(tmp_path, busy):
    async def story():
        async with opened(tmp_path, busy=busy) as (book, _):
            await book.write(b"granted", changes=[Change(kind="use", key="a@1", value=b"1")])
            with closing(sqlite3.connect(f"file:{tmp_path / 'store.sqlite'}?mode=ro", uri=True)) as other:
                (entries,) = other.execute("SELECT entries FROM ledger").fetchone()
                return entries, other.execute("SELECT kind, key FROM records").fetchall()

    assert asyncio.run(story()) == (b"\x00\x07granted", [("use", "a@1")])


def test_nobody_is_answered_once_the_disk_is_gone(tmp_path):
    async def story():
        async with opened(tmp_path, busy=True) as (book, _):
            await ask(book, b"1", b"2")
            with closing(sqlite3.connect(tmp_path / "store.sqlite")) as other:
                other.execute("DROP TABLE ledger")
            results = await asyncio.gather(*(book.write(entry) for entry in (b"3", b"4")), return_exceptions=True)
            assert book.failure.done()
            return results

    assert all(isinstance(one, StoreError) for one in asyncio.run(story()))
