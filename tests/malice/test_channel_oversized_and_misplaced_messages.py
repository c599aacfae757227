"""The attacker announces huge frames, sends what is not JSON, or skips the proof and starts talking."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import tracemalloc

import pytest

from strongroom.attestation.introduction import Greeting, Meeting
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, LineClosedError, ProtocolError, SecureLine
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import StrongroomError
from strongroom.statements import SigningKey, sign
from strongroom.testing import connect_as, listen_as, simulated_platform

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


@pytest.fixture
def driver(platform):
    with listen_as("driver", platform=platform, job_digest=JOB) as driver:
        yield driver


def stranger(driver):
    keys = WorkloadKeys.generate()
    line = SecureLine(socket.create_connection(driver.address), keys=keys, server=False)
    line.shake_hands(Deadline(15))
    return line, keys


def greet(driver, role=Role.WORKER):
    line, keys = stranger(driver)
    own = Greeting.fresh(role=role, keys=keys.public)
    line.send(own.to_json(), Deadline(15))
    peer = Greeting.parse(line.receive(Deadline(15)))
    return line, Meeting.arrange(own=own, peer=peer, peer_spki=line.peer_spki, exporter=line.exporter, job_digest=JOB)


def say(line, body, *, size=None):
    data = struct.pack("<I", len(body) if size is None else size) + body
    while data:
        data = data[line._until(lambda part=data: line._tls.send(part), Deadline(15)) :]


@pytest.mark.parametrize("size", [(2 << 20) + 1, 0xFFFFFFFF])
def test_an_announced_giant_is_refused_before_it_takes_memory(driver, size):
    line, _ = stranger(driver)
    tracemalloc.start()
    say(line, b"{", size=size)
    with pytest.raises(ProtocolError, match="at most"):
        driver.accept(deadline=15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", b"not json", b"[]", b"null", b'"text"', b"[" * 100_000, b'{"a":', b"{}", b'{"protocol": 1}'],
    ids=lambda body: repr(body[:12]),
)
def test_a_first_message_that_is_no_greeting_is_refused(driver, body):
    line, _ = stranger(driver)
    say(line, body)
    with pytest.raises(ProtocolError):
        driver.accept(deadline=15)


@pytest.mark.parametrize(
    "message", [{"ok": True}, {"type": "done"}, {"evidence": "none"}, {"evidence": {}}, {"statement": "x"}, {}]
)
def test_a_stranger_that_skips_the_proof_is_refused(driver, message):
    line, _ = greet(driver)
    line.send(message, Deadline(15))
    line.send({"ok": True}, Deadline(15))
    with pytest.raises(StrongroomError):
        driver.accept(deadline=15)


def test_a_worker_cannot_prove_itself_by_a_signature(driver):
    line, meeting = greet(driver)
    key = SigningKey.generate(name="eve")
    payload = {"party": str(key.party), "role": "worker", "binding": "sha384:" + meeting.own_binding()[:48].hex()}
    line.send({"statement": sign(payload, kind="channel-auth", version=1, key=key).encode()}, Deadline(15))
    with pytest.raises(ProtocolError, match="by evidence"):
        driver.accept(deadline=15)


def test_an_oversized_message_after_the_introduction_ends_the_channel(platform, driver):
    with (
        connect_as("worker", driver.address, platform=platform, job_digest=JOB) as worker,
        driver.accept(deadline=15) as channel,
    ):
        say(worker._line, b"{", size=(16 << 20) + 1)
        with pytest.raises(ProtocolError, match="at most"):
            channel.receive(deadline=15)
        with pytest.raises(LineClosedError):
            channel.receive(deadline=15)


def test_a_connection_cut_in_the_middle_of_a_message_is_not_a_message(platform, driver):
    with (
        connect_as("worker", driver.address, platform=platform, job_digest=JOB) as worker,
        driver.accept(deadline=15) as channel,
    ):
        body = json.dumps({"pay": "everything"}).encode()
        say(worker._line, body[:-1], size=len(body))
        worker._line._plain.close()
        with pytest.raises(LineClosedError):
            channel.receive(deadline=15)
