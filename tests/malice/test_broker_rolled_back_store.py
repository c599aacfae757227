"""The host restores an older copy of the broker's store, to bring back what an owner withdrew."""

import shutil

import pytest
from scene import Scene

from strongroom.errors import RefusedError
from strongroom.ledger.memory import RolledBackError


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def copy(scene, name):
    """Copy the store as a host can: all of it, while the broker is stopped."""
    return shutil.copytree(scene.store, scene.directory / name)


def restore(scene, saved):
    shutil.rmtree(scene.store)
    shutil.copytree(saved, scene.store)


def test_broker_does_not_start_from_a_store_from_before_a_revocation(scene):
    client = scene.ready()
    scene.stop()
    before = copy(scene, "before")
    scene.start()
    client.revoke("flights", "withdrawn", scene.airline.key)
    scene.stop()
    restore(scene, before)
    said = scene.start()
    assert said["kind"] == "RolledBackStoreError"
    assert "was rolled back" in said["message"]
    assert scene.process.wait(timeout=20) == 4


def test_broker_does_not_start_from_an_emptied_store(scene):
    scene.ready()
    scene.stop()
    shutil.rmtree(scene.store)
    assert scene.start()["kind"] == "RolledBackStoreError"


def test_broker_does_not_start_from_a_store_of_another_machine(scene, tmp_path):
    scene.ready()
    scene.stop()
    other = Scene(tmp_path / "other")
    shutil.copytree(scene.store, other.store)
    said = other.start()
    assert said["kind"] == "SealError"
    assert "another measurement or machine" in said["hint"]


def test_decisions_lost_within_an_epoch_are_noticed_by_whoever_saw_them(scene):
    client = scene.ready()
    scene.kill()
    saved = copy(scene, "saved")
    scene.start()
    client.checkpoint()
    ticket = client.submit_job(scene.job().statement)
    assert ticket.index
    scene.kill()
    # The store from before this start: the counter knows better.
    restore(scene, saved)
    assert scene.start()["kind"] == "RolledBackStoreError"


def test_client_notices_a_broker_whose_ledger_forgot_what_it_saw(scene):
    """Even on a machine whose counter the host could turn back, the parties remember."""
    client = scene.ready()
    scene.stop()
    store, counters = (
        copy(scene, "store-before"),
        shutil.copytree(scene.platform.directory / "counters", scene.directory / "counters-before"),
    )
    scene.start()
    with pytest.raises(RefusedError):
        client.submit_job(scene.job(purpose="curiosity").statement)
    scene.stop()
    restore(scene, store)
    shutil.rmtree(scene.platform.directory / "counters")
    shutil.copytree(counters, scene.platform.directory / "counters")
    assert scene.start()["event"] == "ready"
    with pytest.raises(RolledBackError):
        client.checkpoint()
    with pytest.raises(RolledBackError):
        scene.client()
