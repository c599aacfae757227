"""Strangers attest the driver before the analyst does, to block it or to have it run the job for them."""

import pytest
from small_world import expected_answer, small_world

from strongroom.attestation.channel import connect
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.digests import parse_text
from strongroom.errors import StrongroomError
from strongroom.statements import SigningKey
from strongroom.workload.handover import BrokerAddress, Handover


def stranger(world, address, digest, key=None):
    return connect(
        address,
        keys=WorkloadKeys.generate(),
        role=Role.CLIENT,
        expected_role=Role.DRIVER,
        signer=key or SigningKey.generate(name="stranger"),
        verifier=world.trust.verifier(),
        job_digest=parse_text(digest),
        deadline=30,
    )


def hear_refusal(channel):
    said = channel.receive(deadline=20)
    assert said["type"] == "failed"
    with pytest.raises(StrongroomError):
        channel.receive(deadline=20)  # and then it was shown the door
    return said


def test_strangers_that_come_first_neither_block_the_analyst_nor_get_its_job(tmp_path):
    with small_world(tmp_path) as world:
        analyst, door = world.analyst, world.analyst_door()
        submitted = analyst.submit(world.write_job(), broker=door)
        launcher = analyst.launch(submitted, host=world.platform, engine="embedded", directory=world.job_directory())
        try:
            address = launcher.start_address
            silent = [stranger(world, address, submitted.digest) for _ in range(3)]
            handover = Handover(
                statement=submitted.signed.statement.encode(),
                program=submitted.signed.program,
                ticket=submitted.ticket.encode(),
                broker=BrokerAddress(url=door.url, measurements=(world.measurements[Role.BROKER],)),
                checkpoint="",
                report_to=world.analyst.kem.public,
            ).encode()
            for message, word in (
                (handover, "somebody else"),
                ({**handover, "program": "U0VMRUNUIDE="}, "program"),
                ({**handover, "statement": "{}"}, ""),
                ({"type": "job"}, "expected a message"),
                ({**handover, "broker": {"url": 1, "measurements": [[]] * 65}}, ""),
            ):
                channel = stranger(world, address, submitted.digest)
                channel.send(message)
                assert word in hear_refusal(channel)["message"]
            channel = analyst.attest_driver(submitted, address)
            analyst.hand_over(submitted, channel, broker=door)
            late = stranger(world, address, submitted.digest, key=analyst.key)
            late.send(handover)  # the same job from the same analyst, a second time
            assert "earlier" in hear_refusal(late)["message"]
            report = analyst.follow(submitted, channel, on_event=lambda _name, _facts: None)
        finally:
            launcher.stop()
        assert world.fetch(report) == expected_answer()
        for one in silent:
            one.close()
