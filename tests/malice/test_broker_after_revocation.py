"""A job goes on asking after an owner withdrew: at release, at renewal, in a new session, with a later job."""

import urllib.request

import pytest
from scene import Party, Scene

from strongroom.attestation.roles import Role
from strongroom.errors import RefusedError, UsageError
from strongroom.ledger.entry import EntryKind


@pytest.fixture
def scene(tmp_path):
    scene = Scene(tmp_path)
    scene.client_ = scene.ready()
    yield scene
    scene.close()


def test_revocation_between_attestation_and_release_counts(scene):
    client, job = scene.client_, scene.job()
    driver = scene.driver(client, job, client.submit_job(job.statement))
    client.revoke("weather", "found an error", scene.weather.key)
    with pytest.raises(RefusedError) as refused:
        driver.release(["flights"])
    assert refused.value.reasons == (
        "weather: dataset 'weather' is revoked by its owner: nothing of it is released any more",
    )


def test_revoked_dataset_is_not_released_with_an_attestation_and_leaves_no_session(scene):
    client, job = scene.client_, scene.job()
    ticket = client.submit_job(job.statement)
    client.revoke("weather", "found an error", scene.weather.key)
    with pytest.raises(RefusedError) as refused:
        scene.drive(client, job, ticket, ["flights"])
    assert [reason.partition(" is ")[0] for reason in refused.value.reasons] == ["weather: dataset 'weather'"]
    assert client.verified_entry(refused.value.index).kind is EntryKind.REFUSAL
    with urllib.request.urlopen(f"http://127.0.0.1:{scene.metrics}/metrics") as answer:
        assert b"\nstrongroom_broker_sessions 0.0\n" in answer.read()


def test_revocation_ends_renewal_of_every_member_and_stands_in_the_ledger(scene):
    client, job = scene.client_, scene.job()
    driver = scene.driver(client, job, client.submit_job(job.statement))
    worker = scene.member(client, job, driver, Role.WORKER)
    driver.release(["flights"])
    worker.release(["flights"])
    receipt = client.revoke("flights", "found an error", scene.airline.key)
    revoked = client.verified_entry(receipt.index)
    assert revoked.kind is EntryKind.REVOCATION
    assert revoked.facts["versions"] == [1]
    for member in (driver, worker):
        with pytest.raises(RefusedError) as refused:
            member.renew()
        assert "revoked by its owner" in refused.value.reasons[0]
        assert client.verified_entry(refused.value.index).kind is EntryKind.REFUSAL


def test_revocation_survives_a_restart_and_cannot_be_undone_by_a_new_policy(scene):
    client = scene.client_
    client.revoke("flights", "found an error", scene.airline.key)
    scene.kill()
    scene.start()
    with pytest.raises(RefusedError, match="refused"):
        client.submit_job(scene.job().statement)
    client.update_policy(scene.policy(scene.airline, "flights", version=2), scene.airline.key)
    with pytest.raises(RefusedError, match="refused"):
        client.submit_job(scene.job().statement)


def test_new_version_of_a_revoked_dataset_is_usable_and_the_old_one_is_not(scene):
    client, old = scene.client_, scene.job()
    driver = scene.driver(client, old, client.submit_job(old.statement))
    client.revoke("flights", "found an error", scene.airline.key, version=1)
    manifest = scene.manifest(scene.airline, "flights", version=2)
    from strongroom.envelope.keys import DataKey

    client.register_dataset(
        manifest, DataKey.generate(), scene.policy(scene.airline, "flights", version=2), scene.airline.key
    )
    with pytest.raises(RefusedError):
        driver.release(["flights"])
    new = scene.job()
    released = scene.driver(client, new, client.submit_job(new.statement)).release(["flights"])
    assert released.datasets["flights"].version == 2


def test_nobody_but_the_owner_can_revoke(scene):
    client = scene.client_
    with pytest.raises(UsageError, match="has no dataset 'flights'") as caught:
        client.revoke("flights", "because I can", scene.weather.key)
    assert caught.value.hint == "registered here: weather@1"  # its own, and nobody else's
    with pytest.raises(RefusedError, match="does not know this caller"):
        client.revoke("flights", "because I can", Party("airline").key)
    assert client.submit_job(scene.job().statement)


def test_recorded_order_works_once(scene):
    """A revocation order somebody recorded must not hit the version that came after it."""
    from strongroom.broker.orders import Order, sign_order

    client = scene.client_
    fields = {"dataset": "weather", "version": 0, "reason": "error"}
    order = sign_order(
        Order.REVOKE, fields, ledger=client.ledger_key.origin, nonce=client.nonce(), key=scene.weather.key
    )
    body = {"order": order.encode()}
    client._line.call("/v1/revocations", body, again=False)
    with pytest.raises(RefusedError, match="StaleNonceError"):
        client._line.call("/v1/revocations", body, again=False)


def test_order_for_another_broker_is_refused_here(scene):
    from strongroom.broker.orders import Order, sign_order

    client = scene.client_
    fields = {"dataset": "weather", "version": 0, "reason": "error"}
    order = sign_order(Order.REVOKE, fields, ledger="elsewhere", nonce=client.nonce(), key=scene.weather.key)
    with pytest.raises(UsageError, match="meant for another broker"):
        client._line.call("/v1/revocations", {"order": order.encode()}, again=False)
