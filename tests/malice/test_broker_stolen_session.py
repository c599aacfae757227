"""Somebody who reads or changes a session's requests tries to use it."""

import pytest
from scene import Scene

from strongroom.broker.calls import SessionLostError
from strongroom.broker.names import SESSION_HEADER
from strongroom.broker.requests import decode64, encode64
from strongroom.broker.seals import ReleaseSeal, ReleaseSealError, release_terms, request_mac
from strongroom.errors import RefusedError

BODY = b'{"datasets": ["flights"]}'


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("scene"))
    scene.client_ = scene.ready()
    yield scene
    scene.close()


@pytest.fixture
def driver(scene):
    job = scene.job()
    return scene.driver(scene.client_, job, scene.client_.submit_job(job.statement))


def send(scene, driver, *, path="/v1/release", body=BODY, counter=1, secret=None, signed_path=None, signed_body=None):
    proof = request_mac(
        secret or driver._secret,
        path=signed_path or path,
        session=driver._id,
        counter=counter,
        body=body if signed_body is None else signed_body,
    )
    header = f"{encode64(driver._id)}.{counter}.{encode64(proof)}"
    return scene.client_._line.call(path, body, headers={SESSION_HEADER: header}, again=False)


def test_request_by_the_holder_is_answered(scene, driver):
    assert send(scene, driver)["sealed"]


def test_same_request_twice_is_answered_once(scene, driver):
    send(scene, driver, counter=5)
    for counter in (5, 4, 0):
        with pytest.raises(SessionLostError):
            send(scene, driver, counter=counter)


def test_release_that_came_with_the_attestation_was_request_1_and_its_answer_opens_as_no_other(scene):
    job = scene.job()
    ticket = scene.client_.submit_job(job.statement)
    driver, _ = scene.drive(scene.client_, job, ticket, ["flights"])
    with pytest.raises(SessionLostError):
        send(scene, driver, counter=1)
    later = send(scene, driver, counter=2)
    assert opened(driver, later, counter=2)
    with pytest.raises(ReleaseSealError):
        opened(driver, later, counter=1)


@pytest.mark.parametrize(
    "change",
    [
        {"secret": bytes(32)},
        {"signed_body": b'{"datasets": ["weather"]}'},
        {"signed_path": "/v1/renew"},
    ],
    ids=["secret", "body", "path"],
)
def test_request_not_proven_as_it_stands_is_not_answered(scene, driver, change):
    with pytest.raises(SessionLostError):
        send(scene, driver, **change)


@pytest.mark.parametrize("header", ["", "x", "a.b.c", "AAAA.1.AAAA", "AAAA.99999999999999999999.AAAA", "é.1.AAAA"[1:]])
def test_malformed_proof_is_not_answered(scene, header):
    with pytest.raises((SessionLostError, RefusedError, Exception)) as refused:
        scene.client_._line.call("/v1/release", BODY, headers={SESSION_HEADER: header}, again=False)
    assert "sealed" not in str(refused.value)


def opened(driver, answer, *, counter, by=None, **changes):
    named = [(name, version, digest) for name, version, digest in answer["datasets"]]
    terms = release_terms(
        **{"job_digest": driver._job_digest, "datasets": named, "policy_digest": answer["policy_digest"]} | changes
    )
    holder = by or driver
    seal = ReleaseSeal(holder._secret, session=holder._id)
    return seal.open(decode64(answer["sealed"], name="x"), counter=counter, terms=terms)


def test_keys_released_to_one_session_open_in_no_other_and_for_no_other_request(scene, driver):
    job = scene.job()
    other = scene.driver(scene.client_, job, scene.client_.submit_job(job.statement))
    first, second = send(scene, driver, counter=1), send(scene, driver, counter=2)
    assert opened(driver, first, counter=1)
    assert opened(driver, second, counter=2) == opened(driver, first, counter=1)
    assert first["sealed"] != second["sealed"]
    for attempt in (
        {"counter": 2},
        {"counter": 1, "by": other},
        {"counter": 1, "job_digest": other._job_digest},
        {"counter": 1, "policy_digest": "sha256:" + "0" * 64},
    ):
        with pytest.raises(ReleaseSealError):
            opened(driver, first, **attempt)


def test_answer_replayed_to_a_later_request_is_not_believed(scene, driver):
    recorded = send(scene, driver, counter=1)
    driver._counter = 1

    class Replaying:
        def call(self, *_, **__):
            return recorded

    line, driver._line = driver._line, Replaying()
    with pytest.raises(ReleaseSealError):
        driver.release(["flights"])
    driver._line = line
    assert driver.release(["flights"]).datasets


def test_answer_that_names_other_datasets_than_it_was_sealed_for_is_not_believed(scene, driver):
    real = driver._line

    class Renaming:
        def call(self, *arguments, **named):
            answer = real.call(*arguments, **named)
            return answer | {"datasets": [["weather", 1, answer["datasets"][0][2]]]}

    driver._line = Renaming()
    with pytest.raises(ReleaseSealError):
        driver.release(["flights"])
