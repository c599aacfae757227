"""The broker's part of the journey, against a real broker process: enrol, submit, attest, release, renew, fetch."""

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scene import Party, Scene

from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.client import BrokerRefusedError
from strongroom.digests import bytes_digest
from strongroom.envelope.hpke import KemKey
from strongroom.envelope.keys import DataKey, derive_column_key
from strongroom.errors import EvidenceError, RefusedError, StrongroomError, UsageError
from strongroom.ledger.entry import EntryKind


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("scene"))
    scene.client_ = scene.ready()
    yield scene
    scene.close()


@pytest.fixture
def client(scene):
    return scene.client_


@pytest.fixture
def driven(scene, client):
    job = scene.job()
    return job, scene.driver(client, job, client.submit_job(job.statement))


def entry(client, index):
    return client.verified_entry(index)


def test_first_entry_says_what_the_broker_is(scene, client):
    start = entry(client, 0)
    assert start.kind is EntryKind.START
    assert start.facts["measurement"] == scene.measure("broker")
    assert start.facts["simulated"] is True


def test_owner_refuses_a_broker_with_another_measurement(scene):
    from strongroom.broker.client import BrokerClient
    from strongroom.ledger.memory import CheckpointMemory

    for expected in ([], ["sgx:" + "0" * 64]):
        with pytest.raises(EvidenceError, match="the broker measures as"):
            BrokerClient.attest(
                scene.url,
                verifier=scene.verifier(),
                expected_measurements=expected,
                memory=CheckpointMemory(scene.directory / "other.json"),
            )


def test_attested_driver_gets_the_columns_it_asked_for_and_no_other(scene, driven):
    _, driver = driven
    released = driver.release(["flights", "weather"])
    flights = released.datasets["flights"]
    assert set(flights.columns) == {"carrier", "delay"}
    expected = derive_column_key(scene.deks["flights@1"], dataset="flights", version=1, column="delay")
    assert flights.key("flights@1/column/delay") == expected
    assert released.lease_seconds == 300
    assert released.policy.datasets == ("flights", "weather")


def test_driver_may_ask_for_one_dataset_and_gets_only_that(driven):
    assert set(driven[1].release(["weather"]).datasets) == {"weather"}


def test_keys_that_come_with_the_attestation_are_those_that_a_release_brings(scene, client):
    job = scene.job()
    driver, first = scene.drive(client, job, client.submit_job(job.statement), ["flights", "weather"])
    again = driver.release(["flights", "weather"])
    assert first.datasets.keys() == again.datasets.keys() == {"flights", "weather"}
    key = "flights@1/column/delay"
    assert first.datasets["flights"].key(key) == again.datasets["flights"].key(key)
    assert (first.output, first.contents, first.policy.digest) == (again.output, again.contents, again.policy.digest)
    assert again.index == first.index + 1
    written, later = entry(client, first.index), entry(client, again.index)
    assert written.kind is EntryKind.GRANT
    assert written.facts.keys() == later.facts.keys()
    assert {name for name in written.facts if written.facts[name] != later.facts[name]} <= {"expires"}


def test_grant_is_in_the_ledger_with_its_facts_before_the_keys_arrive(scene, client, driven):
    job, driver = driven
    granted = entry(client, driver.release(["flights"]).index)
    assert granted.kind is EntryKind.GRANT
    assert granted.facts["job"] == job.digest[7:39]
    assert granted.facts["measurement"] == scene.measure("driver")
    assert [one["dataset"] for one in granted.facts["datasets"]] == ["flights"]
    assert granted.facts["simulated"] is True


def test_worker_and_egress_get_what_their_roles_need(scene, client, driven):
    job, driver = driven
    output = driver.release(["flights"]).output
    worker = scene.member(client, job, driver, Role.WORKER).release(["flights", "weather"])
    assert set(worker.datasets) == {"flights", "weather"}
    assert worker.output == output
    assert worker.recipients == {}
    egress = scene.member(client, job, driver, Role.EGRESS).release(["flights", "weather"])
    assert egress.datasets == {}
    assert egress.output == output
    assert egress.recipients == {scene.analyst.id.fingerprint: scene.analyst.kem.public}


def test_renewal_returns_the_lease_and_writes_nothing(client, driven):
    _, driver = driven
    driver.release(["flights"])
    before = client.checkpoint().size
    assert driver.renew() == 300
    assert client.checkpoint().size == before


def test_hopeless_job_is_refused_at_once_with_every_reason_of_every_owner(scene, client):
    job = scene.job(columns=("carrier", "flight"), purpose="curiosity", program=b"print('hello')")
    with pytest.raises(BrokerRefusedError) as refused:
        client.submit_job(job.statement)
    reasons = refused.value.reasons
    for owner in ("flights", "weather"):
        assert any(reason.startswith(f"{owner}: the purpose is 'curiosity'") for reason in reasons)
        assert any(reason.startswith(f"{owner}: the spark program has digest") for reason in reasons)
    assert any("column 'flight' is withheld" in reason for reason in reasons)
    written = entry(client, refused.value.index)
    assert written.kind is EntryKind.REFUSAL
    assert written.reasons == reasons


def test_job_on_unknown_data_or_columns_is_refused(scene, client):
    with pytest.raises(RefusedError) as refused:
        client.submit_job(scene.job(inputs={"flights": scene.airline, "nothing": scene.weather}).statement)
    assert any("nothing: no dataset of this name" in reason for reason in refused.value.reasons)
    with pytest.raises(RefusedError) as refused:
        client.submit_job(scene.job(columns=("salary",)).statement)
    assert "flights: there is no column 'salary'" in refused.value.reasons


def test_job_that_names_another_owner_is_refused(scene, client):
    job = scene.job(inputs={"flights": scene.weather})
    with pytest.raises(RefusedError) as refused:
        client.submit_job(job.statement)
    assert any("the job names the owner" in reason for reason in refused.value.reasons)


def test_job_whose_recipient_is_no_member_is_refused(scene, client):
    stranger = Party("stranger")
    with pytest.raises(RefusedError) as refused:
        client.submit_job(scene.job(recipients=[stranger]).statement)
    assert any("is not a member of this broker" in reason for reason in refused.value.reasons)


def test_analyst_who_is_no_member_learns_nothing(scene, client):
    with pytest.raises(RefusedError, match="does not know this caller") as refused:
        client.submit_job(scene.job(by=Party("stranger")).statement)
    assert refused.value.reasons == ()


def test_lost_ticket_is_replaced_until_a_driver_came(scene, client):
    job = scene.job()
    lost, ticket = client.submit_job(job.statement), client.submit_job(job.statement)
    with pytest.raises(RefusedError):
        scene.driver(client, job, lost)
    scene.driver(client, job, ticket)
    with pytest.raises(UsageError, match="has a driver"):
        client.submit_job(job.statement)


def test_driver_may_attest_again_with_its_own_ticket(scene, client):
    job, keys = scene.job(), WorkloadKeys.generate()
    ticket = client.submit_job(job.statement)
    scene.driver(client, job, ticket, keys=keys)
    assert scene.driver(client, job, ticket, keys=keys).release(["flights"]).datasets


def test_release_of_something_the_job_does_not_read_is_refused(driven):
    with pytest.raises(UsageError, match="no input payroll"):
        driven[1].release(["flights", "payroll"])
    with pytest.raises(UsageError):
        driven[1].release([])


def test_attestation_that_asks_for_what_the_job_does_not_read_opens_no_session(scene, client):
    job, keys = scene.job(), WorkloadKeys.generate()
    ticket = client.submit_job(job.statement)
    for datasets in (["flights", "payroll"], []):
        with pytest.raises(UsageError, match="no input"):
            scene.drive(client, job, ticket, datasets, keys=keys)
    assert scene.drive(client, job, ticket, ["flights"], keys=keys)[1].datasets


def test_member_enrols_again_only_with_a_newer_identity(scene, client):
    party = Party("auditor")
    now = datetime.now(UTC)
    first = party.identity("auditor", created=now)
    assert client.enrol_member(first).index is not None
    assert client.enrol_member(first).index is None
    party.kem = KemKey.generate()
    with pytest.raises(UsageError, match="not newer"):
        client.enrol_member(party.identity("auditor", created=now - timedelta(seconds=5)))
    assert client.enrol_member(party.identity("auditor", created=now + timedelta(seconds=5))).index is not None


def test_dataset_name_belongs_to_whoever_registered_it_first(scene, client):
    with pytest.raises(UsageError, match="of another owner"):
        scene.register(client, scene.weather, "flights", version=2)


def test_same_registration_again_does_no_harm_but_other_contents_are_refused(scene, client):
    owner, dek = scene.airline, DataKey.generate()
    manifest, policy = scene.manifest(owner, "routes"), scene.policy(owner, "routes")
    client.register_dataset(manifest, dek, policy, owner.key)
    client.register_dataset(manifest, dek, policy, owner.key)
    with pytest.raises(UsageError, match="only a later revision under the same key"):
        client.register_dataset(manifest, DataKey.generate(), policy, owner.key)
    later = scene.manifest(owner, "routes", revision=2)
    client.register_dataset(later, dek, policy, owner.key)


def test_policy_is_replaced_only_by_a_newer_one_of_the_same_owner(scene, client):
    owner, dek = scene.airline, DataKey.generate()
    client.register_dataset(scene.manifest(owner, "fleet"), dek, scene.policy(owner, "fleet", version=3), owner.key)
    with pytest.raises(UsageError, match="not newer"):
        client.update_policy(scene.policy(owner, "fleet", version=2), owner.key)
    client.update_policy(scene.policy(owner, "fleet", version=4), owner.key)
    with pytest.raises(UsageError, match="another owner"):
        client.update_policy(scene.policy(scene.weather, "fleet", version=9), scene.weather.key)


def test_stricter_policy_counts_from_the_next_renewal_on(scene, client):
    owner = scene.airline
    scene.register(client, owner, "gates")
    job = scene.job(inputs={"gates": owner})
    driver = scene.driver(client, job, client.submit_job(job.statement))
    driver.release(["gates"])
    client.update_policy(scene.policy(owner, "gates", version=2, purposes='["billing"]'), owner.key)
    with pytest.raises(RefusedError) as refused:
        driver.renew()
    assert refused.value.reasons == ("gates: the purpose is 'delay-statistics', must be billing",)


def test_result_waits_for_approval_and_is_then_fetched_by_its_recipient_alone(scene, client):
    owner = scene.airline
    rule = f'[outputs.approvals]\nneeded = 1\nof = ["{owner.id}"]'
    scene.register(client, owner, "crews", approvals=rule)
    job = scene.job(inputs={"crews": owner})
    driver = scene.driver(client, job, client.submit_job(job.statement))
    egress = scene.member(client, job, driver, Role.EGRESS)
    digest = bytes_digest(b"the result's manifest")
    deposited = egress.submit_output(
        "delays",
        manifest_digest=digest,
        signer=owner.key.public.raw,
        rows=3,
        columns=["carrier", "delay"],
        sealed={str(scene.analyst.id): b"sealed key"},
    )
    assert deposited.state == "pending"
    with pytest.raises(RefusedError) as refused:
        client.fetch_result(job.digest, "delays", scene.analyst.key)
    assert any("has 0 of 1 approvals" in reason for reason in refused.value.reasons)

    assert client.pending(scene.weather.key) == []
    (waiting,) = client.pending(owner.key)
    assert (waiting.output_id, waiting.digest, waiting.details["rows"]) == (deposited.output_id, digest, 3)
    with pytest.raises(UsageError, match="the approval is for another"):
        client.approve(waiting.output_id, bytes_digest(b"another result"), owner.key)
    with pytest.raises(UsageError, match="not asked to approve"):
        client.approve(waiting.output_id, digest, scene.weather.key)
    client.approve(waiting.output_id, digest, owner.key)
    assert client.pending(owner.key) == []

    result = client.fetch_result(job.digest, "delays", scene.analyst.key)
    assert (result.sealed, result.manifest_digest) == (b"sealed key", digest)
    assert entry(client, result.index).kind is EntryKind.RESULT
    with pytest.raises(RefusedError, match="does not know this caller"):
        client.fetch_result(job.digest, "delays", owner.key)

    client.revoke("crews", "changed our mind", owner.key)
    with pytest.raises(RefusedError) as refused:
        client.fetch_result(job.digest, "delays", scene.analyst.key)
    assert any("is revoked by its owner" in reason for reason in refused.value.reasons)


def test_output_that_egress_refused_stays_refused(scene, client, driven):
    job, driver = driven
    egress = scene.member(client, job, driver, Role.EGRESS)
    refused = egress.refuse_output("delays", reasons=["too many rows"])
    assert entry(client, refused.index).reasons == ("too many rows",)
    with pytest.raises(RefusedError) as raised:
        client.fetch_result(job.digest, "delays", scene.analyst.key)
    assert "too many rows" in raised.value.reasons


def test_output_sealed_to_anybody_but_its_recipients_is_not_taken(scene, client, driven):
    job, driver = driven
    egress = scene.member(client, job, driver, Role.EGRESS)
    for sealed in ({}, {str(scene.weather.id): b"x"}, {str(scene.analyst.id): b"x", str(scene.weather.id): b"y"}):
        with pytest.raises(UsageError, match="exactly its recipients"):
            egress.submit_output(
                "delays",
                manifest_digest=bytes_digest(b""),
                signer=bytes(32),
                rows=1,
                columns=[],
                sealed=sealed,
            )


def test_only_egress_deposits_and_only_the_driver_admits(scene, client, driven):
    job, driver = driven
    with pytest.raises(RefusedError, match="does not know this caller"):
        driver.refuse_output("delays", reasons=["x"])
    worker = scene.member(client, job, driver, Role.WORKER)
    with pytest.raises(RefusedError, match="does not know this caller"):
        worker.admit(WorkloadKeys.generate().public, role=Role.WORKER, result=client.result)


def test_dataset_opened_as_often_as_its_owner_allows_is_opened_no_more(scene, client):
    owner = scene.airline
    scene.register(client, owner, "rare", max_uses=1)
    jobs = [scene.job(inputs={"rare": owner}) for _ in range(2)]
    drivers = [scene.driver(client, job, client.submit_job(job.statement)) for job in jobs]
    drivers[0].release(["rare"])
    drivers[0].release(["rare"])
    with pytest.raises(RefusedError) as refused:
        drivers[1].release(["rare"])
    assert refused.value.reasons == ("rare: the dataset was opened by 1 jobs, and at most 1 may open it",)


def test_whole_ledger_is_exported_and_checked_offline(scene, client):
    from strongroom.ledger.export import check_export

    directory = scene.directory / "export"
    checkpoint = client.export(directory)
    report = check_export(directory, client.ledger_key, remembered=client.memory.recall()[1].checkpoint)
    assert report.good
    assert report.size == checkpoint.size
    assert {"start", "member", "dataset", "job", "grant"} <= set(report.kinds)


def test_nothing_secret_is_in_store_log_arguments_or_environment(scene, client, driven):
    driven[1].release(["flights"])
    secrets = [key._secret for key in scene.deks.values()]
    process = scene.process.pid
    places = [path.read_bytes() for path in scene.directory.rglob("*") if path.is_file() and "package" not in str(path)]
    places += [Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ")]
    for secret in secrets:
        for form in (bytes(secret), bytes(secret).hex().encode(), base64.b64encode(secret)):
            assert not any(form in place for place in places)
    assert not any(b"PRIVATE KEY" in place for place in places)
    assert (scene.store.stat().st_mode & 0o777) == 0o700
    assert json.dumps(str(driven[1])) == "\"WorkloadSession(role='driver')\""


def test_second_broker_on_the_same_store_is_refused(scene):
    import subprocess

    other = scene.platform.start(
        "broker",
        ["--store", str(scene.store), "--listen", "127.0.0.1:0"],
        package_root=scene.package,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    said = json.loads(other.stdout.readline())
    assert said["event"] == "failed"
    assert "another broker uses the store" in said["message"]
    assert other.wait(timeout=20) == UsageError.exit_code


def test_every_error_is_a_strongroom_error_with_a_message(scene, client):
    with pytest.raises(StrongroomError, match="not asked to approve"):
        client.approve("nothing", bytes_digest(b""), scene.airline.key)
