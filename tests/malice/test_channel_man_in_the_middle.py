"""The attacker stands between worker and driver, ends TLS on both sides and carries evidence across, both ways.

This is how plain RA-TLS was broken (CVE-2026-33697). Evidence that commits to the TLS exporter does not survive it.
"""

from __future__ import annotations

import hashlib
import socket
import threading

import pytest
from relay import Relay, verbatim, with_own_keys

from strongroom.attestation.failures import ReportDataError
from strongroom.attestation.secure_line import Deadline, ProtocolError, SecureLine
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import EvidenceError, StrongroomError
from strongroom.statements import SigningKey
from strongroom.testing import connect_as, listen_as, simulated_platform

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


@pytest.mark.parametrize("role", ["worker", "client"])
def test_relayed_greetings_do_not_fit_the_tls_session(platform, role):
    signer = SigningKey.generate(name="ann") if role == "client" else None
    with listen_as("driver", platform=platform, job_digest=JOB) as driver:
        relay = Relay(driver.address, verbatim)
        with pytest.raises(ProtocolError, match="not the key of the TLS session"):
            connect_as(role, relay.address, platform=platform, job_digest=JOB, signer=signer)
        with pytest.raises(StrongroomError):
            driver.accept(deadline=15)


@pytest.mark.parametrize("role", ["worker", "client"])
def test_relayed_proofs_are_refused_by_the_driver(platform, role):
    signer = SigningKey.generate(name="ann") if role == "client" else None
    with listen_as("driver", platform=platform, job_digest=JOB) as driver:
        relay = Relay(driver.address, with_own_keys)
        with pytest.raises(StrongroomError):
            connect_as(role, relay.address, platform=platform, job_digest=JOB, signer=signer)
        with pytest.raises(EvidenceError) as refused:
            driver.accept(deadline=15)
        assert refused.value.kind == ("ReportDataError" if role == "worker" else "ClientAuthError")
        assert relay.carried, "the attacker did carry messages"


def test_relayed_evidence_of_a_genuine_driver_is_refused_by_the_worker(platform):
    """The attacker even gets the driver to prove itself, by being a genuine worker towards it."""
    from strongroom.attestation.introduction import Credentials, Greeting, Meeting
    from strongroom.attestation.roles import Role
    from strongroom.testing import simulated_tee

    deadline = Deadline(15)
    server = socket.create_server(("127.0.0.1", 0))
    keys = WorkloadKeys.generate()

    def stand_between(driver_address):
        plain, _ = server.accept()
        victim = SecureLine(plain, keys=keys, server=True)
        victim.shake_hands(deadline)
        greeting = Greeting.parse(victim.receive(deadline))
        line = SecureLine(socket.create_connection(driver_address), keys=keys, server=False)
        line.shake_hands(deadline)
        # The victim's nonce becomes the attacker's own towards the driver.
        own = Greeting(role=Role.WORKER, nonce=greeting.nonce, keys=keys.public)
        line.send(own.to_json(), deadline)
        drivers = Greeting.parse(line.receive(deadline))
        meeting = Meeting.arrange(
            own=own, peer=drivers, peer_spki=line.peer_spki, exporter=line.exporter, job_digest=JOB
        )
        tee = simulated_tee("worker", platform=platform, job_digest=JOB)
        line.send(Credentials(role=Role.WORKER, keys=keys, tee=tee, signer=None).prove(meeting), deadline)
        evidence_of_the_driver = line.receive(deadline)
        fake = Greeting(role=Role.DRIVER, nonce=drivers.nonce, keys=keys.public)
        victim.send(fake.to_json(), deadline)
        victim.receive(deadline)
        victim.send(evidence_of_the_driver, deadline)
        victim.send({"ok": True}, deadline)

    with listen_as("driver", platform=platform, job_digest=JOB) as driver:
        threading.Thread(target=stand_between, args=(driver.address,), daemon=True).start()
        with pytest.raises(ReportDataError):
            connect_as("worker", server.getsockname(), platform=platform, job_digest=JOB)
