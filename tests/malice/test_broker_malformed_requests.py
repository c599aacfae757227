"""Strangers send the broker anything: wrong protocols, wrong shapes, too much; it answers briefly and goes on."""

import json
import socket
import ssl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scene import Scene

from strongroom.attestation.roles import Role
from strongroom.errors import UsageError

PATHS = (
    *("evidence", "nonce", "checkpoint", "entries", "inclusion", "consistency"),
    *("members", "datasets", "policies", "revocations", "approvals", "pending", "jobs", "results"),
    *("attest", "release", "renew", "admissions", "outputs", "withheld"),
)
FIELDS = ("nonce", "start", "end", "index", "size", "first", "second", "identity", "order", "policy", "job", "role")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("scene"))
    scene.client_ = scene.ready()
    yield scene
    scene.close()


def post(scene, path, body, **headers):
    http = scene.client_._line._http
    return http.post(path, content=body, headers=headers, extensions={"sni_hostname": "broker.strongroom"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(FIELDS)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(PATHS),
    st.binary(max_size=40)
    | st.dictionaries(names, json_values, max_size=6).map(lambda value: json.dumps(value).encode()),
)
def test_no_stranger_gets_more_than_a_kind(scene, path, body):
    answer = post(scene, f"/v1/{path}", body)
    if path in {"nonce", "checkpoint"} and answer.status_code == 200:
        return
    assert 400 <= answer.status_code < 500, answer.text
    said = answer.json()
    assert set(said) <= {"kind", "request", "message", "hint"}
    assert len(answer.content) < 4000


@pytest.mark.parametrize("path", PATHS)
def test_body_too_large_for_its_door_is_refused(scene, path):
    answer = post(scene, f"/v1/{path}", b" " * ((16 << 20) + 1))
    assert answer.status_code == 400
    assert answer.json()["kind"] in {"MalformedRequestError", "SessionProofError"}


def test_unknown_doors_and_methods_lead_nowhere(scene):
    assert post(scene, "/v1/keys", b"{}").status_code == 404
    http = scene.client_._line._http
    assert http.get("/v1/checkpoint", extensions={"sni_hostname": "broker.strongroom"}).status_code == 404


def test_half_a_character_in_a_reason_is_refused(scene):
    job = scene.job()
    client = scene.client_
    driver = scene.driver(client, job, client.submit_job(job.statement))
    egress = scene.member(client, job, driver, Role.EGRESS)
    with pytest.raises(UsageError, match="not JSON"):
        egress.refuse_output("delays", reasons=["\ud800"])


def test_deeply_nested_json_is_refused(scene):
    assert post(scene, "/v1/members", b"[" * 100_000).status_code == 400


def test_plaintext_is_not_spoken(scene):
    with socket.create_connection(("127.0.0.1", scene.port), timeout=5) as line:
        line.sendall(b"POST /v1/nonce HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        line.settimeout(5)
        try:
            said = line.recv(4096)
        except ConnectionResetError:
            said = b""
    assert b"HTTP" not in said


def test_tls_1_2_is_not_spoken(scene):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", scene.port), timeout=5) as line,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(line, server_hostname="broker.strongroom")


def test_every_answer_carries_a_signed_checkpoint(scene):
    import base64

    answer = post(scene, "/v1/members", b"nonsense")
    note = base64.b64decode(answer.headers["strongroom-checkpoint"]).decode()
    assert scene.client_.ledger_key.verify(note).checkpoint.size > 0


def test_broker_still_works_after_all_that(scene):
    assert scene.client_.submit_job(scene.job().statement)
