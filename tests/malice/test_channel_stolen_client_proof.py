"""The attacker speaks to the driver in the name of an analyst whose signature it saw, or whose name it knows."""

from __future__ import annotations

import hashlib
import socket

import pytest

from strongroom.attestation.introduction import ClientAuthError, Credentials, Greeting, Meeting
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, LineClosedError, SecureLine
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import to_text
from strongroom.statements import SigningKey, sign
from strongroom.testing import listen_as, simulated_platform

JOB = hashlib.sha384(b"job").digest()
ANN, EVE = (SigningKey.generate(name=name) for name in ("ann", "eve"))


@pytest.fixture(scope="module")
def driver():
    with simulated_platform() as platform, listen_as("driver", platform=platform, job_digest=JOB) as driver:
        yield driver


def greet(driver):
    keys = WorkloadKeys.generate()
    line = SecureLine(socket.create_connection(driver.address), keys=keys, server=False)
    line.shake_hands(Deadline(15))
    own = Greeting.fresh(role=Role.CLIENT, keys=keys.public)
    line.send(own.to_json(), Deadline(15))
    peer = Greeting.parse(line.receive(Deadline(15)))
    meeting = Meeting.arrange(own=own, peer=peer, peer_spki=line.peer_spki, exporter=line.exporter, job_digest=JOB)
    return line, meeting, keys


def refused(driver, line, message):
    line.send(message, Deadline(15))
    assert line.receive(Deadline(15)) == {"refused": "ClientAuthError"}
    with pytest.raises(ClientAuthError) as error:
        driver.accept(deadline=15)
    return error.value.message


def statement(meeting, *, key=EVE, party=None, role="client", kind="channel-auth", version=1, binding=None, **more):
    payload = {
        "party": str(party or key.party),
        "role": role,
        "binding": to_text(binding or meeting.own_binding()),
        **more,
    }
    return {"statement": sign(payload, kind=kind, version=version, key=key).encode()}


def test_a_proof_from_another_session_is_refused(driver):
    line, meeting, keys = greet(driver)
    proof = Credentials(role=Role.CLIENT, keys=keys, tee=None, signer=ANN).prove(meeting)
    line.close()
    line, _, _ = greet(driver)
    with pytest.raises(LineClosedError):  # the first session was simply left
        driver.accept(deadline=15)
    assert "another session" in refused(driver, line, proof)


def test_the_name_of_one_party_with_the_key_of_another_is_refused(driver):
    line, meeting, _ = greet(driver)
    assert "another key signed" in refused(driver, line, statement(meeting, key=EVE, party=ANN.party))


def test_a_statement_of_another_kind_is_refused(driver):
    """A signature that an analyst gave for something else must never open a channel."""
    line, meeting, _ = greet(driver)
    assert "expected a channel-auth" in refused(driver, line, statement(meeting, kind="job"))


def test_a_statement_with_more_in_it_is_refused(driver):
    line, meeting, _ = greet(driver)
    assert "nothing else" in refused(driver, line, statement(meeting, admin=True))


def test_a_statement_for_another_role_is_refused(driver):
    line, meeting, _ = greet(driver)
    refused(driver, line, statement(meeting, role="driver"))


def test_a_statement_over_the_drivers_own_binding_is_refused(driver):
    line, meeting, _ = greet(driver)
    refused(driver, line, statement(meeting, binding=hashlib.sha384(meeting.peer_binding()).digest()))
