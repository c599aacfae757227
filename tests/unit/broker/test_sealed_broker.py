"""A broker in a trust domain, which has no sealing key: its custodians found it, open it again, and are told apart."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest
from scene import Party, Scene

from strongroom.broker.backup import restore_backup, take_backup
from strongroom.broker.calls import BrokerRefusedError, SealedBrokerError
from strongroom.broker.custodian_client import NotSealedError
from strongroom.errors import UsageError


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path, kind="tdx")
    scene.custodians = [scene.airline, scene.weather]
    yield scene
    scene.close()


def look(scene, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{scene.metrics}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_custodians_found_it_and_open_it_again_with_everything_in_it(scene):
    client = scene.ready()
    assert client.verified_entry(0).facts["opened_by"] == "custodians"
    size = client.checkpoint().size
    scene.stop()
    assert scene.start() == {
        "event": "sealed",
        "host": "127.0.0.1",
        "port": scene.port,
        "metrics": scene.metrics,
        "custodians": sorted((str(party.id) for party in scene.custodians), key=lambda text: text[-32:]),
    }
    assert scene.unseal(scene.weather).missing == (scene.airline.id,)
    state = scene.unseal(scene.airline)
    assert (state.missing, state.founding) == ((), False)
    assert scene.hear()["event"] == "ready"
    # The same keys as before: whoever talked with it goes on, and its jobs with their data.
    assert client.checkpoint().size == size + 1
    started = client.verified_entry(size)
    assert started.facts["custodians"] == [str(party) for party in state.custodians]
    job = scene.job()
    assert scene.driver(client, job, client.submit_job(job.statement)).release(["flights"])


def test_sealed_broker_tells_its_operator_and_its_clients_what_it_waits_for(scene):
    assert scene.start()["event"] == "sealed"
    assert look(scene, "/healthz") == (200, "ok\n")
    assert look(scene, "/readyz") == (503, "sealed: 0 of 2 custodians have contributed\n")
    with pytest.raises(SealedBrokerError, match=f"0 of 2 .* missing: .*{scene.airline.id}"):
        scene.client()
    scene.unseal(scene.airline)
    assert look(scene, "/readyz") == (503, "sealed: 1 of 2 custodians have contributed\n")
    figures = look(scene, "/metrics")[1]
    assert "strongroom_broker_sealed 1.0" in figures
    assert "strongroom_broker_custodians_missing 1.0" in figures
    assert scene.airline.id.fingerprint not in figures
    assert scene.look().missing == (scene.weather.id,)
    scene.unseal(scene.weather)
    assert scene.hear()["event"] == "ready"
    assert look(scene, "/readyz") == (200, "ok\n")
    assert (scene.look().sealed, scene.look().entries) == (False, 1)
    assert "strongroom_broker_sealed 0.0" in look(scene, "/metrics")[1]
    with pytest.raises(NotSealedError):
        scene.unseal(scene.airline)


@pytest.mark.slow
def test_sealed_broker_ends_when_told_to(scene):
    scene.start()
    scene.unseal(scene.airline)
    assert scene.stop() == 0


def test_without_custodians_it_says_why_it_does_not_start(scene):
    scene.custodians = []
    said = scene.start()
    assert said["message"] == "this TEE has no sealing key, so custodians have to open the store"
    assert "--custodian" in said["hint"]
    assert scene.process.wait(timeout=20) == 2


def test_only_a_custodian_has_its_data_kept(scene):
    scene.custodians = [scene.airline]
    assert scene.start()["event"] == "sealed"
    scene.unseal(scene.airline)
    scene.hear()
    client = scene.client()
    scene.enrol(client)
    scene.register(client, scene.airline, "flights")
    with pytest.raises(BrokerRefusedError) as refused:
        scene.register(client, scene.weather, "weather")
    assert f"{scene.weather.id} is not a custodian" in refused.value.reasons[0]


@pytest.mark.slow
def test_a_further_custodian_is_named_at_a_start_and_from_then_on_needed(scene):
    client = scene.ready()
    spki = client.tls_spki
    third = Party("port")
    scene.stop()
    scene.custodians = [scene.airline, scene.weather, third]
    scene.start()
    scene.unseal(scene.airline, scene.weather)
    assert scene.unseal(third).missing == ()
    scene.hear()
    again = scene.client()
    assert again.tls_spki != spki  # Whoever opened the store before knows the old one.
    again.enrol_member(third.identity("owner"))
    scene.register(again, third, "ships")
    scene.stop()
    scene.custodians = []
    scene.start()
    assert scene.unseal(scene.airline, scene.weather).missing == (third.id,)
    scene.unseal(third)
    assert scene.hear()["event"] == "ready"


@pytest.mark.slow
def test_a_custodian_is_never_dropped(scene):
    scene.ready()
    scene.stop()
    scene.custodians = [scene.airline]
    said = scene.start()
    assert f"include {scene.weather.id}, who was not named" in said["message"]


def test_a_party_that_is_no_custodian_contributes_nothing(scene):
    scene.start()
    with pytest.raises(UsageError, match="is not a custodian"):
        scene.unseal(scene.analyst)


@pytest.mark.slow
def test_an_upgrade_keeps_the_store_if_every_custodian_trusts_the_new_version(scene, tmp_path):
    client = scene.ready()
    size = client.checkpoint().size
    scene.stop()
    newer = shutil.copytree(scene.package, tmp_path / "newer" / "strongroom")
    with (newer / "__init__.py").open("a") as stream:
        stream.write("\n# a newer version\n")
    scene.package = newer
    scene.start()
    scene.unseal(scene.airline, scene.weather, expect=scene.measure("broker"))
    assert scene.hear()["event"] == "ready"
    assert client.checkpoint().size == size + 1
    assert client.verified_entry(size).facts["measurement"] == scene.measure("broker")


@pytest.mark.slow
def test_a_copy_of_the_store_is_brought_back_elsewhere_and_its_custodians_open_it(scene, tmp_path):
    client = scene.ready()
    copied = take_backup(str(scene.store), tmp_path / "copies", now=datetime.now(UTC))
    scene.kill()
    shutil.rmtree(scene.store)
    restore_backup(copied.path, str(scene.store), remembered=[client.memory])
    assert scene.start()["event"] == "sealed"
    scene.unseal(*scene.custodians)
    assert scene.hear()["event"] == "ready"
    assert client.checkpoint().size == copied.size + 1


@pytest.mark.slow
def test_a_standby_is_handed_the_key_and_takes_over_without_the_custodians(scene):
    client = scene.ready()
    size = client.checkpoint().size
    standby = scene.platform.start(
        "broker",
        ["--store", str(scene.store), "--listen", f"127.0.0.1:{scene.port}", "--standby", "--from", scene.url],
        package_root=scene.package,
        stdout=subprocess.PIPE,
        stderr=(scene.directory / "standby.log").open("ab"),
    )
    try:
        until = time.monotonic() + 60
        while client.checkpoint().size == size and time.monotonic() < until:
            time.sleep(0.05)
        assert client.verified_entry(size).kind.value == "handover"
        scene.kill()
        assert json.loads(standby.stdout.readline())["event"] == "ready"
        scene.process = standby
        assert client.verified_entry(size + 1).facts["opened_by"] == "handover"
        client.revoke("flights", "withdrawn", scene.airline.key)
    finally:
        standby.kill()
