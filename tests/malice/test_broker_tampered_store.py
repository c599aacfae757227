"""The host edits the broker's database: changes, swaps, drops or brings back single rows."""

import sqlite3
from contextlib import closing

import pytest
from scene import Scene


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    client = scene.ready()
    scene.old_policy = dict(rows(scene, "select key, sealed from records where kind = 'policy'"))
    client.update_policy(scene.policy(scene.airline, "flights", version=2), scene.airline.key)
    client.revoke("weather", "withdrawn", scene.weather.key)
    scene.stop()
    yield scene
    scene.close()


def rows(scene, query):
    with closing(sqlite3.connect(scene.store / "store.sqlite")) as connection:
        return connection.execute(query).fetchall()


def edit(scene, *commands):
    with closing(sqlite3.connect(scene.store / "store.sqlite")) as connection, connection:
        for command in commands:
            cursor = connection.execute(*command) if isinstance(command, tuple) else connection.execute(command)
            assert cursor.rowcount, command
    return scene.start()


def test_dropped_revocation_keeps_the_broker_from_starting(scene):
    said = edit(scene, "delete from records where kind = 'revocation'")
    assert said["kind"] == "SealError"
    assert "dropped, added or brought back" in said["message"]


def test_changed_record_keeps_the_broker_from_starting(scene):
    said = edit(scene, "update records set sealed = zeroblob(length(sealed)) where kind = 'policy' and key = 'flights'")
    assert "does not open" in said["message"]


def test_swapped_records_keep_the_broker_from_starting(scene):
    said = edit(
        scene,
        "update records set sealed = (select sealed from records where kind = 'dataset' and key = 'weather@1') "
        "where kind = 'dataset' and key = 'flights@1'",
    )
    assert "does not open" in said["message"]


def test_old_policy_brought_back_with_its_own_sequence_keeps_the_broker_from_starting(scene):
    sequences = [n for (n,) in rows(scene, "select sequence from records order by sequence")]
    for sequence in range(1, max(sequences)):
        candidate = (
            "update records set sealed = ?, sequence = ? where kind = 'policy' and key = 'flights'",
            (scene.old_policy["flights"], sequence),
        )
        with closing(sqlite3.connect(scene.store / "store.sqlite")) as connection, connection:
            connection.execute(*candidate)
    assert scene.start()["kind"] == "SealError"


def test_emptied_records_keep_the_broker_from_starting(scene):
    assert edit(scene, "delete from records")["kind"] == "SealError"


def test_head_removed_with_everything_else_keeps_the_broker_from_starting(scene):
    said = edit(scene, "delete from records", "delete from head")
    assert said["kind"] in {"RolledBackStoreError", "StoreError"}


def test_dropped_or_changed_ledger_entries_keep_the_broker_from_starting(scene):
    starts = [n for (n,) in rows(scene, "select start from ledger order by start")]
    assert len(starts) > 2
    for change in (
        f"delete from ledger where start = {starts[-1]}",
        f"delete from ledger where start = {starts[1]}",
        f"update ledger set size = size + 1 where start = {starts[-1]}",
        f"update ledger set hashes = x'' where start = {starts[-1]}",
        f"update ledger set hashes = 'text' where start = {starts[-1]}",
    ):
        kept = rows(scene, "select * from ledger")
        said = edit(scene, change)
        assert said["event"] == "failed", change
        assert said["kind"] in {"LedgerError", "StoreError"}
        with closing(sqlite3.connect(scene.store / "store.sqlite")) as connection, connection:
            connection.executemany("replace into ledger values (?, ?, ?, ?)", kept)
    assert scene.start()["event"] == "ready"


def test_changed_ledger_hash_is_noticed_at_the_start_or_by_the_next_proof(scene):
    size = sum(n for (n,) in rows(scene, "select size from ledger"))
    completing = (1 << (size.bit_length() - 1)) - 1  # the entry that completed the largest subtree
    row = f"start <= {completing} and {completing} < start + size"
    said = edit(scene, f"update ledger set hashes = zeroblob(length(hashes)) where {row}")
    assert said["event"] == "failed"
    assert "do not match" in said["message"]


def test_file_that_is_no_database_is_a_clear_error(scene):
    (scene.store / "store.sqlite").write_bytes(b"this is not a database" * 500)
    for name in ("store.sqlite-wal", "store.sqlite-shm"):
        (scene.store / name).unlink(missing_ok=True)
    said = scene.start()
    assert said["kind"] == "StoreError"
    assert "no usable store" in said["message"]
