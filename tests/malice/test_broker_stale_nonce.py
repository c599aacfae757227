"""Somebody recorded genuine evidence and presents it again: used nonce, made-up nonce, another session's nonce."""

import os

import pytest
from scene import Scene

from strongroom.attestation.binding import key_bundle_digest, report_data
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.requests import encode64
from strongroom.digests import parse_text
from strongroom.errors import RefusedError
from strongroom.ledger.entry import EntryKind


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("scene"))
    scene.client_ = scene.ready()
    yield scene
    scene.close()


def attempt(
    scene, *, nonce, bound_nonce=None, keys=None, presented=None, job=None, ticket=None, bound_job=None, role="driver"
):
    """Attest by hand, with any part exchanged."""
    client = scene.client_
    job = job or scene.job()
    ticket = ticket or client.submit_job(job.statement)
    keys = keys or WorkloadKeys.generate()
    bound = report_data(
        role=Role(role),
        nonce=bound_nonce or nonce,
        exporter=b"",
        own_key=keys.digest,
        peer_key=key_bundle_digest(client._public.tls_spki),
        job_digest=parse_text((bound_job or job).digest),
    )
    shown = presented or keys
    body = {
        "role": "driver",
        "nonce": encode64(nonce),
        "evidence": scene.tee(role, job).evidence(bound).to_json(),
        "spki": encode64(shown.spki),
        "kem": encode64(shown.kem.public),
        "job": job.digest,
        "ticket": encode64(ticket.secret),
    }
    return body, lambda: client._line.call("/v1/attest", body, again=False)


def test_workload_with_fresh_nonce_gets_a_session(scene):
    _, send = attempt(scene, nonce=scene.client_.nonce())
    assert send()["session"]


def test_same_evidence_twice_gets_no_second_session(scene):
    _, send = attempt(scene, nonce=scene.client_.nonce())
    send()
    with pytest.raises(RefusedError) as refused:
        send()
    assert refused.value.reasons == ("the nonce is unknown, used or older than a minute",)
    written = scene.client_.verified_entry(refused.value.index)
    assert written.kind is EntryKind.REFUSAL
    assert written.facts["step"] == "nonce"


def test_nonce_that_the_broker_never_issued_is_worth_nothing(scene):
    _, send = attempt(scene, nonce=os.urandom(32))
    with pytest.raises(RefusedError, match="attestation of the driver"):
        send()


@pytest.mark.parametrize(
    "exchanged",
    [
        lambda scene: {"bound_nonce": os.urandom(32)},
        lambda scene: {"presented": WorkloadKeys.generate()},
        lambda scene: {"bound_job": scene.job()},
        lambda scene: {"role": "worker"},
    ],
    ids=["nonce", "keys", "job", "role"],
)
def test_evidence_made_for_something_else_is_refused_at_its_report_data(scene, exchanged):
    _, send = attempt(scene, nonce=scene.client_.nonce(), **exchanged(scene))
    with pytest.raises(RefusedError) as refused:
        send()
    assert scene.client_.verified_entry(refused.value.index).facts["step"] == "report-data"


def test_nonce_of_a_refused_attempt_is_used_up_too(scene):
    nonce = scene.client_.nonce()
    _, send = attempt(scene, nonce=nonce, bound_nonce=os.urandom(32))
    with pytest.raises(RefusedError):
        send()
    _, again = attempt(scene, nonce=nonce)
    with pytest.raises(RefusedError) as refused:
        again()
    assert "the nonce is unknown" in refused.value.reasons[0]
