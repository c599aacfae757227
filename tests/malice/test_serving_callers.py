"""Parties that may not ask, a job that names one, and a connection that is recorded and played again."""

import socket
import threading

import pytest
from serving_world import SIMPLE, ask, simple_world

from strongroom.errors import RefusedError, StrongroomError, TransportError
from strongroom.parties.analyst import Analyst
from strongroom.statements import SigningKey


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with simple_world(tmp_path_factory.mktemp("callers"), callers=("partner",)) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(world):
    running = world.serve(world.serve_job("simple", program=SIMPLE, callers=("partner",)))
    yield running
    running.stop()


def test_only_the_callers_that_job_and_policies_name_are_answered(world, endpoint):
    with world.asking(endpoint) as client:
        assert ask(client, [[1.0, 0.0]]).json()["outputs"][0]["data"] == [0.123]
    stranger = Analyst(SigningKey.generate(name="stranger"), world.partner.kem, trust=world.trust, memory=None)
    for other in (world.analyst, stranger):  # not even whoever serves the model may ask it
        with world.asking(endpoint, by=other) as client, pytest.raises(RefusedError) as caught:
            ask(client, [[1.0, 0.0]])
        assert "is not among the callers" in caught.value.reasons[0]


def test_job_that_names_a_caller_whom_the_owner_does_not_permit_is_refused_at_once(world):
    job = world.serve_job("wider", program=SIMPLE, callers=("partner", "analyst"))
    with pytest.raises(RefusedError) as caught:
        world.serve(job)
    assert any("the caller analyst:" in reason for reason in caught.value.reasons)
    assert any("the caller analyst:" in reason for one in world.entries("refusal") for reason in one.reasons)


def test_program_that_no_owner_approved_does_not_answer(world):
    job = world.serve_job("other", program=SIMPLE + "# one more line\n", callers=("partner",))
    with pytest.raises(RefusedError, match="refused") as caught:
        world.serve(job)
    assert any("the serve program has digest" in reason for reason in caught.value.reasons)


class Recorder:
    """Carries bytes between caller and endpoint and keeps those that the caller sent."""

    def __init__(self, target):
        self.target, self.sent = target, bytearray()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        left, _ = self.server.accept()
        right = socket.create_connection(self.target)
        threading.Thread(target=self._carry, args=(right, left, None), daemon=True).start()
        self._carry(left, right, self.sent)

    @staticmethod
    def _carry(source, sink, kept):
        try:
            while data := source.recv(1 << 16):
                if kept is not None:
                    kept += data
                sink.sendall(data)
        except OSError:
            return
        finally:
            sink.close()


def test_recorded_connection_played_again_asks_nothing(world, endpoint):
    recorder = Recorder(endpoint.publication.address)
    attester = world.attester(endpoint, address=recorder.address)
    channel = attester.open()
    channel.write(b"GET /v2/health/ready HTTP/1.1\r\nhost: endpoint\r\n\r\n")
    assert b"200" in channel.read(1 << 16)
    channel.close()
    before = len(world.entries("answers"))
    with socket.create_connection(endpoint.publication.address, timeout=10) as again:
        again.settimeout(10)
        again.sendall(bytes(recorder.sent))
        heard = bytearray()
        try:
            while data := again.recv(1 << 16):
                heard += data
        except OSError:
            pass
    assert b"HTTP/1.1" not in heard
    assert len(world.entries("answers")) == before


def test_caller_without_a_key_of_a_party_gets_no_channel(world, endpoint):
    from strongroom.attestation.channel import connect
    from strongroom.attestation.roles import Role
    from strongroom.attestation.workload_keys import WorkloadKeys

    with pytest.raises((StrongroomError, TransportError, ValueError)):
        connect(
            endpoint.publication.address,
            keys=WorkloadKeys.generate(),
            role=Role.CLIENT,
            expected_role=Role.ENDPOINT,
            verifier=world.trust.verifier(),
            job_digest=endpoint.publication.digest,
        )
