"""A workload that is not what the owners approved asks for keys, or one that nobody invited."""

import os

import pytest
from scene import Scene

from strongroom.attestation.roles import Role
from strongroom.attestation.simulated.faults import Faults
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.requests import encode64
from strongroom.digests import parse_text
from strongroom.errors import RefusedError, UsageError


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("scene"))
    scene.client_ = scene.ready()
    yield scene
    scene.close()


@pytest.fixture
def client(scene):
    return scene.client_


@pytest.fixture(scope="module")
def changed(scene, tmp_path_factory):
    """A copy of the package with one byte more."""
    import shutil

    copy = shutil.copytree(scene.package, tmp_path_factory.mktemp("changed") / "strongroom")
    with (copy / "errors.py").open("a") as stream:
        stream.write("#")
    return copy


def test_driver_with_one_byte_changed_gets_no_key(scene, client, changed):
    job = scene.job()
    driver = scene.driver(client, job, client.submit_job(job.statement), package_root=changed)
    with pytest.raises(RefusedError) as refused:
        driver.release(["flights", "weather"])
    for dataset in ("flights", "weather"):
        assert any(r.startswith(f"{dataset}: the driver's measurement is sgx:") for r in refused.value.reasons)
    assert client.verified_entry(refused.value.index).reasons == refused.value.reasons


def test_driver_with_one_byte_changed_gets_no_key_with_its_attestation_either(scene, client, changed):
    job = scene.job()
    ticket = client.submit_job(job.statement)
    with pytest.raises(RefusedError) as refused:
        scene.drive(client, job, ticket, ["flights"], package_root=changed)
    assert {reason.partition(":")[0] for reason in refused.value.reasons} == {"flights", "weather"}
    assert client.verified_entry(refused.value.index).reasons == refused.value.reasons


def test_debug_driver_that_asks_for_keys_at_once_is_told_of_its_evidence_and_gets_none(scene, client):
    job = scene.job()
    with pytest.raises(RefusedError, match="attestation of the driver"):
        scene.drive(client, job, client.submit_job(job.statement), ["flights"], faults=Faults(debug=True))


def test_worker_with_one_byte_changed_is_not_admitted(scene, client, changed):
    job = scene.job()
    driver = scene.driver(client, job, client.submit_job(job.statement))
    keys = WorkloadKeys.generate()
    result = scene.appraise(Role.WORKER, job, package_root=changed)
    ruling = driver.admit(keys.public, role=Role.WORKER, result=result)
    assert ruling.letter == ""
    assert any("measurement" in reason for reason in ruling.reasons)
    assert client.verified_entry(ruling.index).facts["admitted"] is False


def test_debug_driver_gets_no_session(scene, client):
    job = scene.job()
    ticket = client.submit_job(job.statement)
    with pytest.raises(RefusedError, match="attestation of the driver"):
        scene.driver(client, job, ticket, faults=Faults(debug=True))


def test_driver_without_a_ticket_is_told_nothing(scene, client):
    job = scene.job()
    client.submit_job(job.statement)
    with pytest.raises(RefusedError, match="does not know this caller") as refused:
        client.attest_workload(
            scene.tee("driver", job),
            keys=WorkloadKeys.generate(),
            role=Role.DRIVER,
            job_digest=parse_text(job.digest),
        )
    assert refused.value.reasons == ()


def test_ticket_of_another_job_opens_nothing(scene, client):
    job, other = scene.job(), scene.job()
    client.submit_job(job.statement)
    with pytest.raises(RefusedError, match="does not know this caller"):
        scene.driver(client, job, client.submit_job(other.statement))


def test_stolen_ticket_is_worthless_after_the_driver_used_it(scene, client):
    job = scene.job()
    ticket = client.submit_job(job.statement)
    scene.driver(client, job, ticket)
    with pytest.raises(UsageError, match="used by another driver"):
        scene.driver(client, job, ticket)


def test_worker_without_admission_gets_no_session(scene, client):
    job = scene.job()
    driver = scene.driver(client, job, client.submit_job(job.statement))
    for letter in ("", encode64(os.urandom(32)), "not base64!"):
        with pytest.raises((RefusedError, UsageError)):
            scene.member(client, job, driver, Role.WORKER, letter=letter)


def test_admission_of_one_member_is_worthless_to_another_and_in_another_role_or_job(scene, client):
    job, other = scene.job(), scene.job()
    driver = scene.driver(client, job, client.submit_job(job.statement))
    scene.driver(client, other, client.submit_job(other.statement))
    keys = WorkloadKeys.generate()
    letter = driver.admit(keys.public, role=Role.WORKER, result=scene.appraise(Role.WORKER, job)).letter
    for who, what, which in (
        (WorkloadKeys.generate(), Role.WORKER, job),
        (keys, Role.EGRESS, job),
        (keys, Role.WORKER, other),
    ):
        with pytest.raises(RefusedError, match="does not know this caller"):
            scene.member(client, which, driver, what, keys=who, letter=letter)
    assert scene.member(client, job, driver, Role.WORKER, keys=keys, letter=letter).release(["flights"]).datasets
