"""The host, whose PostgreSQL keeps the broker's store, edits it, brings back old copies, and serves two brokers."""

import http.client
import json
import socket
import subprocess
import time

import pytest
from scene import START_SECONDS, Scene

from strongroom.envelope.keys import reveal
from strongroom.errors import RefusedError, StrongroomError

pytestmark = pytest.mark.postgres


@pytest.fixture
def scene(tmp_path, postgres):
    scene = Scene(tmp_path)
    scene.server, scene.database = postgres, postgres.database()
    scene.place = postgres.url(scene.database)
    yield scene
    scene.close()


def another(scene, place, *more):
    """Start a second broker on the same machine."""
    return scene.platform.start(
        "broker",
        ["--store", place, "--listen", "127.0.0.1:0", *more],
        package_root=scene.package,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def said_by(process):
    return json.loads(process.stdout.readline() or b"{}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def probe(port, path):
    """Return the status once the broker listens."""
    until = time.monotonic() + START_SECONDS
    while True:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            line.request("GET", path)
            return line.getresponse().status
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.05)
        finally:
            line.close()


def released(scene, client):
    job = scene.job()
    return scene.driver(client, job, client.submit_job(job.statement)).release(["flights", "weather"])


def test_store_outlives_its_broker_and_shows_no_key(scene):
    client = scene.ready()
    assert released(scene, client).datasets["flights"].dataset == "flights"
    scene.stop()
    assert scene.start()["event"] == "ready"
    client.checkpoint()  # It continues the ledger that this client remembers.
    assert released(scene, client).datasets["weather"].dataset == "weather"
    kept = scene.server.query(scene.database, "select sealed from records union all select entries from ledger")
    assert kept
    assert not any(reveal(dek) in bytes(row) for (row,) in kept for dek in scene.deks.values())


def test_edited_rows_keep_the_broker_from_starting(scene):
    client = scene.ready()
    client.revoke("weather", "withdrawn", scene.weather.key)
    scene.stop()
    for move, kind in (
        ("delete from records where kind = 'revocation'", "SealError"),
        ("delete from ledger where start = (select max(start) from ledger)", "StoreError"),
    ):
        copied = scene.server.copy(scene.database, idle=True)
        scene.server.query(copied, move)
        scene.place = scene.server.url(copied)
        assert scene.start()["kind"] == kind, move


def test_older_copy_of_the_database_keeps_the_broker_from_starting(scene):
    client = scene.ready()
    before = scene.server.copy(scene.database)
    client.revoke("flights", "withdrawn", scene.airline.key)
    scene.stop()
    scene.place = scene.server.url(before)
    assert scene.start()["kind"] == "RolledBackStoreError"


def test_standby_alone_waits_for_a_store_in_use_and_takes_over_with_every_revocation(scene):
    client = scene.ready()
    second = another(scene, scene.place)
    assert said_by(second)["kind"] == "StoreInUseError"
    assert second.wait(timeout=START_SECONDS) == 2
    port = free_port()
    standby = another(scene, scene.place, "--standby", "--metrics", f"127.0.0.1:{port}")
    try:
        client.revoke("flights", "withdrawn", scene.airline.key)
        before = client.checkpoint()
        assert probe(port, "/healthz") == 200
        assert probe(port, "/readyz") == 503
        scene.kill()
        said = said_by(standby)
        assert said["event"] == "ready"
        scene.port = said["port"]
        later = scene.client()  # The memory is shared: it continues the ledger that was seen.
        assert later.checkpoint().size > before.size
        assert probe(port, "/readyz") == 200
        with pytest.raises(RefusedError, match="refused"):
            later.submit_job(scene.job().statement)
    finally:
        standby.kill()


@pytest.mark.parametrize("idle", [pytest.param(False, marks=pytest.mark.slow), True])
def test_broker_whose_lock_was_taken_away_stops_before_it_decides_anything(scene, idle):
    """The host ends its connection, which frees the lock, and lets a standby take over."""
    client = scene.ready()
    standby = another(scene, scene.place, "--standby")
    try:
        scene.server.query(
            scene.database,
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted",
        )
        assert said_by(standby)["event"] == "ready"
        size = scene.server.query(scene.database, "select sum(size) from ledger")
        if idle:
            time.sleep(2.1)  # It looks around at most every two seconds.
            assert probe(scene.metrics, "/readyz") == 503
        else:
            with pytest.raises(StrongroomError):
                client.submit_job(scene.job().statement)
        assert scene.process.wait(timeout=START_SECONDS)
        assert scene.server.query(scene.database, "select sum(size) from ledger") == size
    finally:
        standby.kill()


@pytest.mark.slow  # the copies of an SQLite store are in test_broker_cloned_store
def test_brokers_over_two_copies_never_both_go_on(scene):
    client = scene.ready()
    clone = another(scene, scene.server.url(scene.server.copy(scene.database)))
    try:
        assert said_by(clone)["event"] == "ready"
        time.sleep(2.1)  # The original looks at the counter at least every two seconds of work.
        with pytest.raises(StrongroomError):
            client.submit_job(scene.job().statement)
        assert scene.process.wait(timeout=START_SECONDS) == 4
    finally:
        clone.kill()
