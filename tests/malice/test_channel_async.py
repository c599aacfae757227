"""Every move against the channel of threads is made against the asyncio one: relay, reflection, other job, silence."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket

import pytest
from relay import Relay, verbatim, with_own_keys

from strongroom.attestation.async_channel import AsyncListener, connect_soon
from strongroom.attestation.channel import PeerRefusedError
from strongroom.attestation.roles import Role
from strongroom.attestation.secure_line import DeadlineError, LineClosedError, ProtocolError
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import EvidenceError, StrongroomError
from strongroom.statements import SigningKey
from strongroom.testing import Faults, connect_as, listen_as, simulated_platform, simulated_tee, simulated_verifier

JOB, OTHER = hashlib.sha384(b"job").digest(), hashlib.sha384(b"another").digest()


@pytest.fixture(scope="module")
def platform():
    with simulated_platform() as platform:
        yield platform


@contextlib.asynccontextmanager
async def listening(platform, *, job=JOB, deadline=15.0, max_pending=32):
    listener = await AsyncListener.open(
        ("127.0.0.1", 0),
        keys=WorkloadKeys.generate(),
        role=Role.DRIVER,
        tee=simulated_tee(Role.DRIVER, platform=platform, job_digest=job),
        verifier=simulated_verifier(platform),
        job_digest=job,
        deadline=deadline,
        max_pending=max_pending,
    )
    async with listener:
        yield listener


async def come(address, *, platform, role=Role.WORKER, job=JOB, keys=None, faults=None, deadline=15.0):
    signer = None if role.attests else SigningKey.generate(name="ann")
    return await connect_soon(
        address,
        keys=keys or WorkloadKeys.generate(),
        role=role,
        expected_role=Role.DRIVER,
        tee=simulated_tee(role, platform=platform, job_digest=job, faults=faults) if role.attests else None,
        signer=signer,
        verifier=simulated_verifier(platform),
        job_digest=job,
        deadline=deadline,
    )


def test_two_honest_ends_talk_and_a_thousand_messages_cross(platform):
    async def scene():
        async with listening(platform) as driver:
            worker, served = await asyncio.gather(come(driver.address, platform=platform), driver.accept(deadline=15))
            assert (
                served.peer.measurement == worker.peer.measurement.replace("driver", "worker") or served.peer.simulated
            )
            assert (served.peer_role, worker.peer_role) == (Role.WORKER, Role.DRIVER)

            async def speak(channel):
                for number in range(500):
                    await channel.send({"number": number})

            async def listen(channel):
                return [(await channel.receive())["number"] for _ in range(500)]

            _, _, left, right = await asyncio.gather(speak(worker), speak(served), listen(worker), listen(served))
            assert left == right == list(range(500))
            big = {"text": "x" * 3_000_000}
            _, heard = await asyncio.gather(worker.send(big), served.receive())
            assert heard == big
            worker.close()
            with pytest.raises(LineClosedError):
                await served.receive(deadline=5)

    asyncio.run(scene())


@pytest.mark.parametrize("threads_listen", [True, False])
def test_both_kinds_of_channel_speak_with_each_other(platform, threads_listen):
    async def scene():
        if threads_listen:
            with listen_as("driver", platform=platform, job_digest=JOB) as driver:
                ours = await come(driver.address, platform=platform, role=Role.CLIENT)
                theirs = await asyncio.to_thread(driver.accept, deadline=15)
        else:
            async with listening(platform) as driver:
                theirs = await asyncio.to_thread(
                    connect_as, "worker", driver.address, platform=platform, job_digest=JOB
                )
                ours = await driver.accept(deadline=15)
        await ours.send({"said": 1})
        assert await asyncio.to_thread(theirs.receive) == {"said": 1}

    asyncio.run(scene())


@pytest.mark.parametrize("role", [Role.WORKER, Role.CLIENT])
@pytest.mark.parametrize("rewrite", [verbatim, with_own_keys])
def test_a_man_in_the_middle_who_relays_evidence_both_ways_fails(platform, role, rewrite):
    async def scene():
        async with listening(platform) as driver:
            relay = Relay(driver.address, rewrite)
            expected = ProtocolError if rewrite is verbatim else StrongroomError
            with pytest.raises(expected):
                await come(relay.address, platform=platform, role=role)
            with pytest.raises(StrongroomError) as refused:
                await driver.accept(deadline=15)
            if rewrite is with_own_keys:
                assert refused.value.kind == ("ReportDataError" if role is Role.WORKER else "ClientAuthError")
            assert relay.carried

    asyncio.run(scene())


def test_an_end_shown_its_own_greeting_or_keys_refuses(platform):
    """Reflection: the attacker sends every message back to whoever said it."""

    async def scene():
        with socket.create_server(("127.0.0.1", 0)) as mirror:
            keys = WorkloadKeys.generate()

            def reflect():
                from strongroom.attestation.secure_line import Deadline, SecureLine

                plain, _ = mirror.accept()
                line = SecureLine(plain, keys=WorkloadKeys.generate(), server=True)
                line.shake_hands(Deadline(10))
                with contextlib.suppress(StrongroomError):
                    while True:
                        line.send(line.receive(Deadline(10)), Deadline(10))

            thread = asyncio.create_task(asyncio.to_thread(reflect))
            with pytest.raises(ProtocolError):
                await come(mirror.getsockname(), platform=platform, keys=keys)
            await thread

    asyncio.run(scene())


def test_a_genuine_tee_running_another_job_fails(platform):
    async def scene():
        async with listening(platform) as driver:
            with pytest.raises(PeerRefusedError):
                await come(driver.address, platform=platform, job=OTHER)
            with pytest.raises(EvidenceError) as refused:
                await driver.accept(deadline=15)
            assert refused.value.kind == "ReportDataError"

    asyncio.run(scene())


def test_a_workload_in_debug_mode_fails(platform):
    async def scene():
        async with listening(platform) as driver:
            with pytest.raises(PeerRefusedError):
                await come(driver.address, platform=platform, faults=Faults(debug=True))

    asyncio.run(scene())


def test_silent_strangers_and_plain_text_delay_nobody(platform):
    async def scene():
        async with listening(platform, deadline=2.0, max_pending=4) as driver:
            strangers = [socket.create_connection(driver.address) for _ in range(12)]
            strangers[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
            worker = await come(driver.address, platform=platform)
            for _ in range(40):
                with contextlib.suppress(StrongroomError):
                    served = await driver.accept(deadline=15)
                    break
            await worker.send({"said": 1})
            assert await served.receive() == {"said": 1}
            for stranger in strangers:
                stranger.close()

    asyncio.run(scene())


def test_a_stalling_peer_meets_the_deadline_and_the_channel_stays_usable(platform):
    async def scene():
        async with listening(platform) as driver:
            worker, served = await asyncio.gather(come(driver.address, platform=platform), driver.accept(deadline=15))
            with pytest.raises(DeadlineError):
                await served.receive(deadline=0.1)
            first = asyncio.create_task(served.receive(deadline=1.0))
            await asyncio.sleep(0.05)
            with pytest.raises(DeadlineError, match="another task"):
                await served.receive(deadline=0.1)
            with pytest.raises(DeadlineError):
                await first
            await worker.send({"said": 1})
            assert await served.receive() == {"said": 1}
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DeadlineError):
            await come(silent.getsockname(), platform=platform, deadline=0.5)

    asyncio.run(scene())
