"""The attacker takes over a workload that was attested: renewed evidence finds out, and is neither faked nor forced."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import os
import threading
import time
from datetime import timedelta

import pytest

from strongroom.attestation.async_channel import AsyncListener, connect_soon
from strongroom.attestation.encounter import CONTROL, ChangedPeerError
from strongroom.attestation.failures import DebugEvidenceError, ReportDataError
from strongroom.attestation.renewing import KeptAttested, keep_attested
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import Deadline, DeadlineError, LineClosedError, ProtocolError
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import EvidenceError, StrongroomError, UsageError
from strongroom.testing import Faults, connect_as, listen_as, simulated_platform, simulated_tee, simulated_verifier

JOB = hashlib.sha384(b"job").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


@pytest.fixture
def pair(platform):
    """A driver's and a worker's end of one channel."""
    with listen_as("driver", platform=platform, job_digest=JOB) as listener:
        worker = connect_as("worker", listener.address, platform=platform, job_digest=JOB)
        driver = listener.accept(deadline=15)
    with driver, worker:
        yield driver, worker


def take_over(channel, tee):
    """Put another TEE behind the worker's end, as whoever broke into it would."""
    end = channel._renewal._end
    channel._renewal._end = dataclasses.replace(end, credentials=dataclasses.replace(end.credentials, tee=tee))


def pump(channel):
    """Let an end answer in the background, until its channel is closed."""

    def run():
        try:
            while True:
                channel.receive(deadline=10)
        except StrongroomError:
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_an_honest_peer_is_renewed_while_messages_flow_both_ways(pair):
    driver, worker = pair
    before = driver.attested_at
    worker.send({"said": 1})
    pump(worker)
    result = driver.reattest()
    assert result.measurement == driver.peer.measurement
    assert driver.attested_at > before
    assert driver.receive() == {"said": 1}, "what arrived meanwhile is kept"


def test_both_ends_may_ask_at_once(pair):
    driver, worker = pair
    answers = []
    threads = [threading.Thread(target=lambda end=end: answers.append(end.reattest())) for end in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert len(answers) == 2
    driver.send({"still": "open"})
    assert worker.receive() == {"still": "open"}


def test_a_workload_that_is_now_in_debug_mode_loses_its_channel(platform, pair):
    driver, worker = pair
    take_over(worker, simulated_tee("worker", platform=platform, job_digest=JOB, faults=Faults(debug=True)))
    pump(worker)
    with pytest.raises(DebugEvidenceError):
        driver.reattest()
    with pytest.raises(StrongroomError):
        driver.send({"secret": 1})


def test_another_workload_behind_the_same_keys_loses_its_channel(platform, pair):
    driver, worker = pair
    take_over(worker, simulated_tee("egress", platform=platform, job_digest=JOB))
    pump(worker)
    with pytest.raises(ChangedPeerError, match="is now"):
        driver.reattest()


def test_the_evidence_of_the_introduction_or_of_an_earlier_renewal_is_no_answer(pair):
    driver, worker = pair

    class Recorded:
        def __init__(self, evidence):
            self.evidence_shown = evidence

        def evidence(self, report_data):
            del report_data
            return self.evidence_shown

    take_over(worker, Recorded(driver.evidence))
    pump(worker)
    with pytest.raises(ReportDataError):
        driver.reattest()


def test_a_peer_that_does_not_answer_loses_its_channel(pair):
    driver, _ = pair
    with pytest.raises(DeadlineError):
        driver.reattest(deadline=0.3)
    with pytest.raises(LineClosedError):
        driver.send({"secret": 1})


@pytest.mark.parametrize(
    "message",
    [
        {CONTROL: "proof", "evidence": {}},
        {CONTROL: "again"},
        {CONTROL: "again", "nonce": "AAAA"},
        {CONTROL: "again", "nonce": 7},
        {CONTROL: "other", "nonce": base64.b64encode(os.urandom(32)).decode()},
        {CONTROL: ["again"]},
    ],
)
def test_unasked_for_proofs_and_malformed_requests_end_the_channel(pair, message):
    driver, worker = pair
    worker._line.send(message, Deadline(5))
    with pytest.raises(ProtocolError):
        driver.receive()
    with pytest.raises(LineClosedError):
        driver.receive()


def test_a_peer_cannot_make_a_tee_produce_quotes_without_end(pair):
    driver, worker = pair
    for _ in range(3):
        worker._line.send({CONTROL: "again", "nonce": base64.b64encode(os.urandom(32)).decode()}, Deadline(5))
    with pytest.raises(ProtocolError, match="at most once"):
        driver.receive()


def test_an_application_cannot_speak_in_the_channels_name(pair):
    with pytest.raises(UsageError):
        pair[0].send({CONTROL: "again"})


def test_the_timer_renews_and_closes_the_channel_of_a_workload_taken_over(platform, pair):
    driver, worker = pair
    thread = pump(worker)
    with KeptAttested(driver, every=timedelta(seconds=1.1)) as kept:
        while kept.renewals < 1:
            time.sleep(0.05)
        take_over(worker, simulated_tee("worker", platform=platform, job_digest=JOB, faults=Faults(debug=True)))
        thread.join(15)
    assert isinstance(kept.failure, DebugEvidenceError)
    with pytest.raises(UsageError):
        KeptAttested(driver, every=timedelta(seconds=0.5))


def test_the_same_holds_in_an_event_loop(platform):
    async def scene():
        listener = await AsyncListener.open(
            ("127.0.0.1", 0),
            keys=WorkloadKeys.generate(),
            role=Role.DRIVER,
            tee=simulated_tee("driver", platform=platform, job_digest=JOB),
            verifier=simulated_verifier(platform),
            job_digest=JOB,
        )
        async with listener:
            coming = connect_soon(
                listener.address,
                keys=WorkloadKeys.generate(),
                role=Role.WORKER,
                expected_role=Role.DRIVER,
                tee=simulated_tee("worker", platform=platform, job_digest=JOB),
                verifier=simulated_verifier(platform),
                job_digest=JOB,
            )
            worker, driver = await asyncio.gather(coming, listener.accept(deadline=15))
        await worker.send({"said": 1})
        pumping = asyncio.create_task(worker.receive(deadline=30))
        keeping = asyncio.create_task(keep_attested(driver, every=timedelta(seconds=1.1)))
        before = driver.attested_at
        while driver.attested_at == before:
            await asyncio.sleep(0.05)
        assert await driver.receive() == {"said": 1}
        take_over(worker, simulated_tee("worker", platform=platform, job_digest=JOB, faults=Faults(debug=True)))
        with pytest.raises(EvidenceError) as failed:
            await asyncio.wait_for(keeping, 15)
        assert failed.value.kind == "DebugEvidenceError"
        with pytest.raises(StrongroomError):
            await driver.send({"secret": 1})
        with pytest.raises(StrongroomError):
            await pumping

    asyncio.run(scene())
