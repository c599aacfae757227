"""Two workloads, or a client and a workload, meet over an attested channel."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from strongroom.attestation.channel import AttestedChannel, PeerRefusedError, connect
from strongroom.attestation.introduction import WrongRoleError
from strongroom.attestation.listener import Listener, ListenerClosedError
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import DeadlineError, LineClosedError, ProtocolError
from strongroom.attestation.simulated import Faults
from strongroom.attestation.workload_keys import WorkloadKeyError, WorkloadKeys
from strongroom.errors import EvidenceError, StrongroomError, TransportError, UsageError
from strongroom.statements import SigningKey
from strongroom.testing import simulated_platform, simulated_tee, simulated_verifier

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


@pytest.fixture
def listener(platform):
    with Listener(
        ("127.0.0.1", 0),
        keys=WorkloadKeys.generate(),
        role=Role.DRIVER,
        tee=simulated_tee("driver", platform=platform, job_digest=JOB),
        verifier=simulated_verifier(platform),
        job_digest=JOB,
        deadline=15,
    ) as listener:
        yield listener


def come_as_worker(platform, listener, *, keys=None, faults=None, **changes) -> AttestedChannel:
    arguments = {
        "keys": keys or WorkloadKeys.generate(),
        "role": Role.WORKER,
        "expected_role": Role.DRIVER,
        "tee": simulated_tee("worker", platform=platform, job_digest=JOB, faults=faults),
        "verifier": simulated_verifier(platform),
        "job_digest": JOB,
        "deadline": 15,
    }
    return connect(listener.address, **{**arguments, **changes})


def come_as_client(platform, listener, *, signer, **changes) -> AttestedChannel:
    arguments = {
        "keys": WorkloadKeys.generate(),
        "role": Role.CLIENT,
        "expected_role": Role.DRIVER,
        "signer": signer,
        "verifier": simulated_verifier(platform),
        "job_digest": JOB,
        "deadline": 15,
    }
    return connect(listener.address, **{**arguments, **changes})


def test_worker_and_driver_verify_each_other_and_then_talk(platform, listener):
    keys = WorkloadKeys.generate()
    with come_as_worker(platform, listener, keys=keys) as worker, listener.accept(deadline=15) as driver:
        assert worker.peer.measurement == platform.measure("driver")
        assert driver.peer.measurement == platform.measure("worker")
        assert (worker.peer_role, driver.peer_role) == (Role.DRIVER, Role.WORKER)
        assert driver.peer_keys == keys.public
        assert driver.party is worker.party is None
        assert 0 < worker.seconds < 5
        worker.send({"question": 1})
        assert driver.receive() == {"question": 1}
        driver.send({"answer": "x" * 300_000})
        assert worker.receive()["answer"] == "x" * 300_000


def test_client_attests_the_driver_and_the_driver_learns_which_party_speaks(platform, listener):
    signer = SigningKey.generate(name="ann")
    with come_as_client(platform, listener, signer=signer) as client, listener.accept(deadline=15) as driver:
        assert client.peer.measurement == platform.measure("driver")
        assert driver.peer is None
        assert driver.party == signer.party
        assert driver.peer_role is Role.CLIENT


def test_a_check_refuses_a_genuine_peer_before_it_is_told_yes(platform, listener):
    def expect_another(result):
        raise EvidenceError(f"{result.measurement} is not expected", step="measurement")

    with pytest.raises(EvidenceError, match="not expected"):
        come_as_worker(platform, listener, check=expect_another)
    with pytest.raises(PeerRefusedError):
        listener.accept(deadline=15)


def test_worker_with_a_debug_enclave_is_refused_and_learns_only_the_kind(platform, listener):
    with pytest.raises(PeerRefusedError) as told:
        come_as_worker(platform, listener, faults=Faults(debug=True))
    assert told.value.message == "the other end refused us: DebugEvidenceError"
    with pytest.raises(EvidenceError) as refused:
        listener.accept(deadline=15)
    assert refused.value.step == "attributes"


def test_peers_of_another_role_are_refused(platform, listener):
    with pytest.raises(WrongRoleError):
        come_as_worker(platform, listener, expected_role=Role.BROKER)


def test_a_listener_admits_only_the_roles_it_names(platform):
    with Listener(
        ("127.0.0.1", 0),
        keys=WorkloadKeys.generate(),
        role=Role.DRIVER,
        tee=simulated_tee("driver", platform=platform, job_digest=JOB),
        verifier=simulated_verifier(platform),
        job_digest=JOB,
        admits=[Role.CLIENT],
    ) as listener:
        with pytest.raises(StrongroomError):
            come_as_worker(platform, listener)
        with pytest.raises(WrongRoleError, match="worker, expected client"):
            listener.accept(deadline=15)


def test_an_end_has_exactly_one_way_to_prove_itself(platform, listener):
    signer = SigningKey.generate(name="ann")
    with pytest.raises(UsageError, match="by its TEE"):
        come_as_worker(platform, listener, tee=None)
    with pytest.raises(UsageError, match="by its TEE"):
        come_as_worker(platform, listener, signer=signer)
    with pytest.raises(UsageError, match="signature"):
        come_as_client(platform, listener, signer=None)


@pytest.mark.parametrize("digest", [b"", b"short", bytes(64)])
def test_a_channel_is_always_for_one_job(platform, listener, digest):
    with pytest.raises(UsageError, match="48 bytes"):
        come_as_worker(platform, listener, job_digest=digest)


def test_receiving_has_a_deadline_and_the_channel_survives_it(platform, listener):
    with come_as_worker(platform, listener) as worker, listener.accept(deadline=15) as driver:
        with pytest.raises(DeadlineError, match=r"0\.05 s"):
            worker.receive(deadline=0.05)
        driver.send({"late": True})
        assert worker.receive(deadline=15) == {"late": True}


def test_one_thread_may_send_while_another_receives(platform, listener):
    with come_as_worker(platform, listener) as worker, listener.accept(deadline=15) as driver:
        got = []
        reader = threading.Thread(target=lambda: got.extend(worker.receive(deadline=15)["n"] for _ in range(200)))
        reader.start()
        echo = threading.Thread(target=lambda: [driver.receive(deadline=15) for _ in range(200)])
        echo.start()
        for number in range(200):
            worker.send({"n": number})
            driver.send({"n": number, "fill": "y" * 5000})
        reader.join(10)
        echo.join(10)
        assert got == list(range(200))


def test_closing_wakes_a_thread_that_waits_and_tells_the_peer(platform, listener):
    with come_as_worker(platform, listener) as worker, listener.accept(deadline=15) as driver:
        raised = []

        def wait():
            try:
                worker.receive(deadline=30)
            except LineClosedError as error:
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        worker.close()
        worker.close()
        thread.join(3)
        assert len(raised) == 1
        with pytest.raises(LineClosedError):
            driver.receive(deadline=3)
        with pytest.raises(LineClosedError):
            worker.send({})


def test_a_message_that_is_too_large_is_not_sent(platform, listener):
    with (
        come_as_worker(platform, listener) as worker,
        listener.accept(deadline=15),
        pytest.raises(ProtocolError, match="at most"),
    ):
        worker.send({"x": "y" * (17 << 20)})


def test_nobody_at_the_address_is_a_clear_error(platform, listener):
    listener.close()
    with pytest.raises(TransportError) as refused:
        come_as_worker(platform, listener)
    assert "running" in refused.value.hint


def test_a_taken_port_is_a_clear_error(platform, listener):
    with pytest.raises(TransportError, match="cannot listen"):
        Listener(
            listener.address,
            keys=WorkloadKeys.generate(),
            role=Role.DRIVER,
            tee=simulated_tee("driver", platform=platform),
            verifier=simulated_verifier(platform),
            job_digest=JOB,
        )


def test_waiting_for_a_peer_has_a_deadline_or_ends_with_the_listener(listener):
    with pytest.raises(DeadlineError, match="nobody came"):
        listener.accept(deadline=0.05)
    threading.Timer(0.1, listener.close).start()
    with pytest.raises(ListenerClosedError):
        listener.accept()
    assert listener.closed


def test_keys_do_not_print_pickle_or_copy():
    import copy
    import pickle

    keys = WorkloadKeys.generate()
    assert repr(keys) == "WorkloadKeys()"
    with pytest.raises(TypeError):
        pickle.dumps(keys)
    with pytest.raises(TypeError):
        copy.deepcopy(keys)


def test_a_workloads_signature_holds_for_its_label_and_parts_only():
    keys = WorkloadKeys.generate()
    signature = keys.sign("strongroom/test/v1", b"ab", b"c")
    keys.public.verify(signature, "strongroom/test/v1", b"ab", b"c")
    for label, parts in [("strongroom/test/v2", (b"ab", b"c")), ("strongroom/test/v1", (b"a", b"bc"))]:
        with pytest.raises(WorkloadKeyError):
            keys.public.verify(signature, label, *parts)
    with pytest.raises(WorkloadKeyError):
        WorkloadKeys.generate().public.verify(signature, "strongroom/test/v1", b"ab", b"c")
