"""Somebody who reads or changes a session's requests tries to use it."""

import pytest
from scene import Scene

from strongroom.broker.calls import SessionLostError
from strongroom.broker.names import SESSION_HEADER
from strongroom.broker.requests import encode64
from strongroom.broker.seals import request_mac
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


def test_keys_sealed_to_one_workload_do_not_open_with_anothers_key(scene, driver):
    from strongroom.broker.requests import decode64
    from strongroom.envelope.hpke import KemKey, SealedMessageError

    answer = send(scene, driver)
    sealed = decode64(answer["sealed"], name="x")
    for key in (KemKey.generate(), driver._keys.kem):
        with pytest.raises(SealedMessageError):
            key.open(sealed, info=b"for something else")
