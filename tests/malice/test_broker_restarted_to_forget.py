"""The host restarts the broker so that it forgets: the newest collateral it saw, or what time it was."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from scene import Scene

from strongroom.attestation.failures import ClockSetBackError
from strongroom.attestation.simulated.faults import Faults
from strongroom.broker.calls import BrokerRefusedError
from strongroom.broker.clock import SteadyClock, last_written
from strongroom.ledger.entry import Entry, EntryKind
from strongroom.ledger.log import MemoryStore, MerkleLog
from strongroom.ledger.proofs import ProofError

NOW = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def attest(scene, client):
    job = scene.job()
    return scene.driver(client, job, client.submit_job(job.statement))


def test_collateral_from_before_a_recovery_is_refused_after_a_restart_too(scene):
    scene.faults = Faults(evaluation_number=21)
    client = scene.ready()
    attest(scene, client)
    scene.stop()
    scene.faults = Faults(evaluation_number=20)  # still formally valid, and hides what the vendor found since
    assert scene.start()["event"] == "ready"
    with pytest.raises(BrokerRefusedError) as refused:
        attest(scene, client)
    assert "21 was already seen" in str(refused.value.reasons)
    scene.stop()
    scene.faults = Faults(evaluation_number=22)
    assert scene.start()["event"] == "ready"
    attest(scene, client)


class Host:
    """Owns the machine's clock."""

    def __init__(self, now):
        self.now, self.passed = now, 100.0

    def clock(self, **more):
        return SteadyClock(wall=lambda: self.now, passed=lambda: self.passed, **more)


def test_broker_does_not_start_before_the_last_entry_of_its_ledger():
    log = MerkleLog(MemoryStore())
    assert last_written(log) is None
    log.append([Entry(kind=EntryKind.START, time=NOW, facts={}).encode()])
    with pytest.raises(ClockSetBackError, match="the ledger's last entry was written at 2027-06-01T12:00:00Z"):
        Host(NOW - timedelta(days=30)).clock(after=last_written(log))


@pytest.mark.parametrize("before", [0, 1, 2, 6, 7])
def test_last_entry_is_believed_only_as_it_stands_under_the_root(before):
    """Attack: entries lie in the host's database in the clear; the last one is given an earlier time for one start."""
    store = MemoryStore()
    log = MerkleLog(store)
    early, late = (
        Entry(kind=EntryKind.START, time=time, facts={}).encode() for time in (NOW - timedelta(days=30), NOW)
    )
    log.append([*[early] * before, late])
    assert last_written(MerkleLog(store)) == NOW
    store._entries[-1] = early
    with pytest.raises(ProofError, match="does not lead to the checkpoint's root"):
        last_written(MerkleLog(store))


def test_broker_does_not_start_over_a_last_entry_with_another_time(scene):
    scene.ready()
    scene.stop()
    with closing(sqlite3.connect(scene.store / "store.sqlite")) as connection, connection:
        start, entries = connection.execute("select start, entries from ledger order by start desc").fetchone()
        year = str(datetime.now(UTC).year)
        older = entries.replace(f'"{year}-'.encode(), f'"{int(year) - 1}-'.encode())
        assert older != entries
        connection.execute("update ledger set entries = ? where start = ?", (older, start))
    said = scene.start()
    assert said["event"] == "failed"
    assert said["kind"] == "ProofError"


def test_small_difference_between_two_starts_is_bridged_and_time_does_not_go_back():
    assert Host(NOW - timedelta(minutes=4)).clock(after=NOW)() == NOW


def test_clock_set_back_under_a_running_broker_goes_on():
    host = Host(NOW)
    clock = host.clock()
    host.now -= timedelta(days=30)
    host.passed += 10
    assert clock() == NOW + timedelta(seconds=10)
    host.passed += 5
    assert clock() == NOW + timedelta(seconds=15)


def test_clock_that_was_stopped_goes_on():
    host = Host(NOW)
    clock = host.clock()
    host.passed += 3600
    assert clock() == NOW + timedelta(hours=1)


def test_clock_set_forward_is_followed():
    host = Host(NOW)
    clock = host.clock()
    host.now += timedelta(days=1)
    assert clock() == NOW + timedelta(days=1)
