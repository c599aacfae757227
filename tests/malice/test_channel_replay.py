"""The attacker recorded a whole earlier session and even stole that worker's keys; it replays the evidence."""

from __future__ import annotations

import hashlib
import socket

import pytest

from strongroom.attestation.failures import ReportDataError
from strongroom.attestation.introduction import Credentials, Greeting, Meeting
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, LineClosedError, SecureLine
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.testing import listen_as, simulated_platform, simulated_tee

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


def greet_driver(driver, keys, *, nonce=None):
    deadline = Deadline(15)
    line = SecureLine(socket.create_connection(driver.address), keys=keys, server=False)
    line.shake_hands(deadline)
    fresh = Greeting.fresh(role=Role.WORKER, keys=keys.public)
    own = Greeting(role=Role.WORKER, nonce=nonce or fresh.nonce, keys=keys.public)
    line.send(own.to_json(), deadline)
    peer = Greeting.parse(line.receive(deadline))
    meeting = Meeting.arrange(own=own, peer=peer, peer_spki=line.peer_spki, exporter=line.exporter, job_digest=JOB)
    return line, meeting, deadline


def test_evidence_from_an_earlier_session_is_refused_although_the_keys_are_the_same(platform):
    keys = WorkloadKeys.generate()
    tee = simulated_tee("worker", platform=platform, job_digest=JOB)
    with listen_as("driver", platform=platform, job_digest=JOB) as driver:
        line, meeting, deadline = greet_driver(driver, keys)
        recorded = Credentials(role=Role.WORKER, keys=keys, tee=tee, signer=None).prove(meeting)
        line.send(recorded, deadline)
        assert "evidence" in line.receive(deadline), "the first use was accepted"
        line.close()

        line, _, deadline = greet_driver(driver, keys, nonce=meeting.own.nonce)
        line.send(recorded, deadline)
        assert line.receive(deadline) == {"refused": "ReportDataError"}
        with pytest.raises(LineClosedError):  # the first session was left before its ok
            driver.accept(deadline=15)
        with pytest.raises(ReportDataError):
            driver.accept(deadline=15)


def test_every_session_asks_with_another_nonce(platform):
    keys = WorkloadKeys.generate()
    with listen_as("driver", platform=platform, job_digest=JOB) as driver:
        nonces = set()
        for _ in range(5):
            line, meeting, _ = greet_driver(driver, keys)
            nonces.add(meeting.peer.nonce)
            line.close()
        assert len(nonces) == 5
