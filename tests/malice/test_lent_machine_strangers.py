"""Strangers at a lent machine: nobody but a named party has anything started there, and only what it may."""

import contextlib
import json
import socket
import ssl
from pathlib import Path

import pytest
from lent_machines import join, joined
from small_world import small_world, wait_until

from strongroom.errors import RefusedError, StrongroomError
from strongroom.jobs.launch.standalone.line import HostLostError, connect
from strongroom.statements import SigningKey, sign

JOB = "sha384:" + "0" * 96


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with small_world(tmp_path_factory.mktemp("strangers")) as made:
        yield made


@pytest.fixture(scope="module")
def agent(world):
    with joined(join(world, "lent", most=1)) as (made,):
        yield made


def open_line(agent, key):
    return connect(agent.form.endpoint, certificate=agent.certificate, key=key, job_digest=JOB)


def raw(agent):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(agent.form.endpoint, timeout=20))


def ask(line, *, number=1, **request):
    line.send({"type": "start", "id": number, **request})
    while (said := line.receive(seconds=20))["type"] == "alive":
        pass
    return said


def test_party_that_was_not_named_has_nothing_started(agent):
    with pytest.raises(RefusedError) as refused:
        open_line(agent, SigningKey.generate(name="analyst"))
    assert "not lent to party" in refused.value.reasons[0]
    wait_until(lambda: "stranger refused" in "".join(agent.said))


def test_machine_in_the_middle_has_another_certificate(world, agent, tmp_path):
    with joined(join(world, "impostor")) as (impostor,), pytest.raises(HostLostError, match="has certificate sha256:"):
        connect(impostor.form.endpoint, certificate=agent.certificate, key=world.analyst.key, job_digest=JOB)


@pytest.mark.parametrize("change", ["agent", "nonce", "job"])
def test_word_that_was_signed_for_another_machine_or_time_or_for_no_job_is_refused(world, agent, change):
    with raw(agent) as tls:
        nonce = json.loads(tls.recv(4096))["nonce"]
        asked = {"agent": agent.certificate, "nonce": nonce, "job": JOB, change: "sha256:" + "1" * 64}
        statement = sign(asked, kind="host-request", version=1, key=world.analyst.key)
        tls.sendall(json.dumps({"type": "place", "statement": statement.encode()}).encode() + b"\n")
        assert tls.recv(4096) == b""


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 200_000, b'{"type":"start","role":"worker"}\n']
)
def test_whatever_else_is_said_ends_the_line_and_starts_nothing(agent, said):
    with raw(agent) as tls:
        tls.recv(4096)
        with contextlib.suppress(OSError):
            tls.sendall(said)
            tls.shutdown(socket.SHUT_WR)
            while tls.recv(4096):
                pass
    with socket.create_connection(agent.form.endpoint, timeout=20) as plain:
        plain.sendall(said or b"SSH-2.0-probe\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"hello" not in plain.recv(4096)


def test_named_party_cannot_have_jobs_work_elsewhere_or_start_what_is_no_role(world, agent):
    line, most = open_line(agent, world.analyst.key)
    jobs = world.directory / "jobs"
    (jobs / "inside").mkdir(exist_ok=True)
    (jobs / "link").unlink(missing_ok=True)
    (jobs / "link").symlink_to("/etc")
    good = {"role": "driver", "name": "driver", "directory": str(jobs / "inside"), "engine": "embedded"}
    try:
        assert most == 1
        for change, why in (
            ({"directory": "/etc"}, "work below"),
            ({"directory": str(jobs / ".." / ".." / "etc")}, "work below"),
            ({"directory": str(jobs / "link")}, "work below"),
            ({"directory": "inside"}, "work below"),
            ({"directory": str(jobs / "missing")}, "does not exist on this machine"),
            ({"role": "broker"}, "no role"),
            ({"name": "../../x"}, "no role"),
            ({"engine": "--help"}, "no engine"),
            ({"role": "worker", "name": "worker-1", "driver": "--help"}, "no address"),
        ):
            said = ask(line, **{**good, **change})
            assert said["type"] == "refused"
            assert why in said["why"]
        assert ask(line, **good)["type"] == "started"
        said = [ask(line, number=number, **good) for number in (1, 2, "x")]
        said += [line.receive(seconds=20) for _ in range(2)]  # the driver that was started talks meanwhile
        assert {"refused", "full"} <= {one["type"] for one in said}
        assert "started" not in {one["type"] for one in said}
    finally:
        line.close()


def test_key_of_the_agent_is_readable_by_its_owner_only_and_stays_the_same(world, agent):
    file = Path(world.directory / "agent-lent" / "agent.pem")
    assert file.stat().st_mode & 0o077 == 0
    with joined(join(world, "lent")) as (again,):
        assert again.certificate == agent.certificate
    with pytest.raises(StrongroomError):
        open_line(again, world.analyst.key)
