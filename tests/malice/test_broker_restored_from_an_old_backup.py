"""The host loses the broker's disk, by chance or not, and brings a backup back from before a revocation."""

import shutil
from datetime import UTC, datetime

import pytest
from scene import Scene

from strongroom.broker.backup import restore_backup, take_backup
from strongroom.catalog.store import RolledBackStoreError
from strongroom.errors import RefusedError
from strongroom.ledger.memory import CheckpointMemory


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def backup(scene):
    return take_backup(str(scene.store), scene.directory / "backups", now=datetime.now(UTC)).path


def lose_disk(scene):
    scene.kill()
    shutil.rmtree(scene.store)


def remembered(scene, name="shared"):
    return CheckpointMemory(scene.directory / f"{name}.json")


def test_backup_from_before_a_revocation_is_refused_and_nothing_is_written(scene):
    client = scene.ready()
    before = backup(scene)
    client.revoke("flights", "withdrawn", scene.airline.key)
    lose_disk(scene)
    with pytest.raises(RolledBackStoreError, match="would be undone"):
        restore_backup(before, str(scene.store), remembered=[remembered(scene)])
    assert not scene.store.exists()


@pytest.mark.slow
def test_backup_that_lacks_a_single_refusal_is_refused(scene):
    client = scene.ready()
    before = backup(scene)
    with pytest.raises(RefusedError):
        client.submit_job(scene.job(purpose="curiosity").statement)
    lose_disk(scene)
    with pytest.raises(RolledBackStoreError):
        restore_backup(before, str(scene.store), remembered=[remembered(scene)])


def test_one_party_that_remembers_more_than_the_others_is_enough(scene):
    client = scene.ready()
    early = scene.client(memory="early")
    early.checkpoint()
    before = backup(scene)
    restore_backup(before, str(scene.directory / "first"), remembered=[remembered(scene, "early")])
    client.revoke("flights", "withdrawn", scene.airline.key)
    with pytest.raises(RolledBackStoreError):
        restore_backup(
            before, str(scene.directory / "second"), remembered=[remembered(scene, "early"), remembered(scene)]
        )


@pytest.mark.slow
def test_backup_of_another_broker_is_refused(scene, tmp_path):
    scene.ready()
    other = Scene(tmp_path / "other")
    try:
        other.ready()
        for _ in range(3):
            other.clients[0].submit_job(other.job().statement)
        foreign = backup(other)
    finally:
        other.close()
    lose_disk(scene)
    with pytest.raises(RolledBackStoreError, match="another one"):
        restore_backup(foreign, str(scene.store), remembered=[remembered(scene)])


def test_operator_who_brings_an_old_backup_back_by_hand_is_refused_by_the_platform(scene):
    """A host need not use our verb; where the platform has a counter, the broker does not start."""
    client = scene.ready()
    before = backup(scene)
    client.revoke("flights", "withdrawn", scene.airline.key)
    lose_disk(scene)
    scene.store.mkdir()
    shutil.copy(before, scene.store / "store.sqlite")
    assert scene.start()["kind"] == "RolledBackStoreError"
