"""The sealed store gives back exactly what was committed, or says that somebody touched it."""

import copy
import pickle

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.catalog.sealing import Sealer, SealError
from strongroom.catalog.store import HEAD, Change, ClosedStore, LedgerEnd, RolledBackStoreError, StoreError
from strongroom.errors import UsageError

KEY = bytes(range(32))
END = LedgerEnd(size=0, root=bytes(32), write=lambda connection: None)


class Counter:
    def __init__(self, value=0):
        self.value = value

    def read(self):
        return self.value

    def advance_to(self, value):
        assert value > self.value
        self.value = value


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def place(request, tmp_path):
    """Where a store is kept: everything that holds of one holds of the other."""
    if request.param == "sqlite":
        return tmp_path
    server = request.getfixturevalue("postgres")
    return server.url(server.database())


def opened(place, key=KEY):
    store = ClosedStore.hold(place, tables=[]).open(key)
    return store, {(change.kind, change.key): change.value for change in store.load()}


def change(kind, key, value=b"value"):
    return Change(kind=kind, key=key, value=value)


def test_committed_records_are_there_after_a_restart(place):
    store, found = opened(place)
    assert found == {}
    store.commit([change("a", "x", b"1"), change("a", "y", b"2"), change("b", "x", b"3")], epoch=1, ledger=END)
    store.commit([change("a", "x", b"4"), change("a", "x", b"5")], epoch=1, ledger=END)
    store.close()
    store, found = opened(place)
    assert found == {("a", "x"): b"5", ("a", "y"): b"2", ("b", "x"): b"3"}
    assert (store.head.epoch, store.head.commits) == (1, 2)
    store.close()


def test_values_are_not_readable_in_the_file(tmp_path):
    store, _ = opened(tmp_path)
    store.commit([change("dataset", "x", b"a very secret data key")], epoch=1, ledger=END)
    store.close()
    assert not any(b"very secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_commit_that_fails_changes_nothing(place):
    store, _ = opened(place)
    store.commit([change("a", "x")], epoch=1, ledger=END)

    def fail(connection):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        store.commit([change("a", "y")], epoch=2, ledger=LedgerEnd(size=1, root=bytes(32), write=fail))
    assert store.head.epoch == 1
    store.commit([change("a", "z")], epoch=1, ledger=END)
    store.close()
    store, found = opened(place)
    assert set(found) == {("a", "x"), ("a", "z")}
    store.close()


def test_store_of_another_key_does_not_open(place):
    store, _ = opened(place)
    store.commit([change("a", "x")], epoch=1, ledger=END)
    store.close()
    other = ClosedStore.hold(place, tables=[]).open(bytes(32))
    with pytest.raises(SealError, match="does not open"):
        list(other.load())
    other.close()


def test_store_is_used_by_one_process_at_a_time(place):
    store, _ = opened(place)
    with pytest.raises(UsageError, match="another broker uses"):
        opened(place)
    store.close()
    opened(place)[0].close()


def test_broker_that_was_overtaken_writes_nothing(place):
    """Whatever became of the lock: who does not follow the newest head does not commit."""
    store, _ = opened(place)
    store.commit([change("a", "x")], epoch=1, ledger=END)
    with store.engine.begin() as connection:  # as another broker, or a database that lost its newest commits, would
        (newest,) = connection.exec_driver_sql("SELECT sealed FROM head").one()
        connection.execute(sa.update(HEAD).values(sealed=bytes(newest)[::-1]))
    with pytest.raises(StoreError, match="somebody else wrote to it"):
        store.check_head()
    with pytest.raises(StoreError, match="somebody else wrote to it"):
        store.commit([change("a", "y")], epoch=1, ledger=END)
    with store.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT key FROM records").scalars().all() == ["x"]
    store.close()


def test_first_commit_is_made_once(place):
    store, _ = opened(place)
    with store.engine.begin() as connection:
        connection.execute(sa.insert(HEAD).values(id=1, sealed=b"another broker's"))
    with pytest.raises(StoreError, match="somebody else wrote to it"):
        store.commit([change("a", "x")], epoch=1, ledger=END)
    store.close()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("postgresql+psycopg://me:secret@db.example/store", "address holds the database's password"),
        ("postgresql+psycopg://me@db.example/store?password=secret", "address holds the database's password"),
        ("mysql://me@db.example/store", "a directory or a PostgreSQL database"),
        ("postgresql+psycopg://me@db.example:port/store", "cannot be read"),
        ("postgresql+psycopg://me@127.0.0.1:1/store", "cannot reach the store"),
    ],
)
def test_address_that_cannot_be_used_is_a_clear_error_that_tells_no_password(place, said):
    with pytest.raises(UsageError, match=said) as refused:
        ClosedStore.hold(place, tables=[])
    assert "secret" not in str(refused.value) + refused.value.hint


def test_password_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "secret")
    with pytest.raises(UsageError, match="environment holds"):
        ClosedStore.hold("postgresql+psycopg://me@127.0.0.1:1/store", tables=[])


def test_directory_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot use"):
        opened(tmp_path / "file")


@pytest.mark.parametrize(("epoch", "counter", "accepted"), [(3, 3, True), (4, 3, True), (2, 3, False), (5, 3, False)])
def test_epoch_must_be_the_counters_or_one_ahead(tmp_path, epoch, counter, accepted):
    store, _ = opened(tmp_path)
    store.commit([], epoch=epoch, ledger=END)
    platform = Counter(counter)
    if accepted:
        store.check_epoch(platform)
        assert platform.value == epoch
    else:
        with pytest.raises(RolledBackStoreError):
            store.check_epoch(platform)
        assert platform.value == counter
    store.close()


def test_empty_store_is_refused_once_the_counter_moved(place):
    store, _ = opened(place)
    store.check_epoch(Counter(0))
    with pytest.raises(RolledBackStoreError):
        store.check_epoch(Counter(2))
    store.close()


def test_sealed_value_opens_only_at_its_place():
    sealer = Sealer(KEY)
    sealed = sealer.seal(b"value", place=b"here")
    assert sealer.open(sealed, place=b"here") == b"value"
    for bad in (sealed[:-1], sealed + b"x", b"", sealed[:12]):
        with pytest.raises(SealError):
            sealer.open(bad, place=b"here")
    with pytest.raises(SealError):
        sealer.open(sealed, place=b"there")


def test_sealer_does_not_print_pickle_or_copy():
    sealer = Sealer(KEY)
    assert repr(sealer) == "Sealer()"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(sealer)
    with pytest.raises(SealError):
        Sealer(b"short")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=4), st.binary(max_size=9)), max_size=4), max_size=5
    )
)
def test_any_sequence_of_commits_is_read_back(tmp_path_factory, commits):
    directory = tmp_path_factory.mktemp("store")
    store, _ = opened(directory)
    expected = {}
    for records in commits:
        store.commit([change(*record) for record in records], epoch=1, ledger=END)
        expected.update({(kind, key): value for kind, key, value in records})
    store.close()
    store, found = opened(directory)
    assert found == expected
    store.close()


def test_resealed_store_opens_under_the_new_key_alone_and_its_seal_was_written_with_the_records(place):
    store, _ = opened(place)
    store.commit([change("a", "x", b"1"), change("a", "y", b"2")], epoch=1, ledger=END)
    store.reseal(bytes(32), seal="how to come by the new key")
    store.close()
    store, found = opened(place)  # Nothing was committed, so nothing has changed.
    assert found == {("a", "x"): b"1", ("a", "y"): b"2"}
    store.reseal(bytes(32), seal="how to come by the new key")
    store.commit([change("a", "y", b"3")], epoch=2, ledger=END)
    store.commit([change("a", "z", b"4")], epoch=2, ledger=END)
    store.close()
    closed = ClosedStore.hold(place, tables=[])
    assert (closed.seal, closed.empty) == ("how to come by the new key", False)
    with pytest.raises(SealError):
        list(closed.open(KEY).load())
    assert {one.key: one.value for one in closed.open(bytes(32)).load()} == {"x": b"1", "y": b"3", "z": b"4"}
    closed.close()


def test_resealing_that_fails_leaves_the_store_under_its_old_key(place):
    store, _ = opened(place)
    store.commit([change("a", "x", b"1")], epoch=1, ledger=END)

    def fail(connection):
        raise RuntimeError("disk full")

    store.reseal(bytes(32), seal="new")
    with pytest.raises(RuntimeError):
        store.commit([], epoch=2, ledger=LedgerEnd(size=1, root=bytes(32), write=fail))
    store.close()
    closed = ClosedStore.hold(place, tables=[])
    assert closed.seal == ""
    assert [one.value for one in closed.open(KEY).load()] == [b"1"]
    closed.close()
