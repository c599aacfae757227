"""The attacker has no TEE: it shows the victim the victim's own greeting and evidence."""

from __future__ import annotations

import hashlib
import socket
import threading

import pytest

from strongroom.attestation.failures import ReportDataError
from strongroom.attestation.introduction import Greeting
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, ProtocolError, SecureLine
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import StrongroomError
from strongroom.testing import connect_as, simulated_platform

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


def mirror(greet):
    """Serve one victim: greet it with what ``greet`` makes of its greeting, then send its own proof back."""
    server = socket.create_server(("127.0.0.1", 0))
    keys = WorkloadKeys.generate()

    def run():
        deadline = Deadline(15)
        plain, _ = server.accept()
        line = SecureLine(plain, keys=keys, server=True)
        try:
            line.shake_hands(deadline)
            line.send(greet(line.receive(deadline), keys), deadline)
            line.send(line.receive(deadline), deadline)
            line.send({"ok": True}, deadline)
            line.receive(deadline)
        except StrongroomError:
            line.close()

    threading.Thread(target=run, daemon=True).start()
    return server.getsockname()


def test_a_reflected_greeting_is_refused(platform):
    address = mirror(lambda greeting, keys: greeting)
    with pytest.raises(ProtocolError):
        connect_as("worker", address, platform=platform, job_digest=JOB, expected_role="worker")


def test_a_reflected_nonce_is_refused(platform):
    def greet(greeting, keys):
        nonce = Greeting.parse(greeting).nonce
        return Greeting(role=Role.DRIVER, nonce=nonce, keys=keys.public).to_json()

    with pytest.raises(ProtocolError, match="back to us"):
        connect_as("worker", mirror(greet), platform=platform, job_digest=JOB)


@pytest.mark.parametrize("role", [Role.DRIVER, Role.WORKER])
def test_reflected_evidence_is_refused_even_between_equal_roles(platform, role):
    def greet(greeting, keys):
        return Greeting.fresh(role=role, keys=keys.public).to_json()

    with pytest.raises(ReportDataError):
        connect_as("worker", mirror(greet), platform=platform, job_digest=JOB, expected_role=role)
