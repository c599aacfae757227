"""Two drivers come with one ticket at the same moment, while the broker writes newer collateral down."""

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace

from strongroom.attestation.evidence import Evidence
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.broker.desk import ConflictError
from strongroom.broker.doors.workloads import WorkloadsDoor
from strongroom.broker.keys import BrokerKeys
from strongroom.broker.records import Job, JobInput
from strongroom.broker.requests import encode64
from strongroom.broker.seals import ticket_digest
from strongroom.broker.sessions import Nonces, Sessions
from strongroom.broker.state import State
from strongroom.broker.tally import Tally
from strongroom.envelope.keys import DataKey
from strongroom.statements import SigningKey

NOW = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)
ANALYST = SigningKey.generate(name="analyst").party
TICKET = b"t" * 32
JOB = Job(
    id="0" * 32,
    digest="sha384:" + "0" * 96,
    analyst=ANALYST,
    purpose="statistics",
    kind="sql",
    program="sha256:" + "5" * 64,
    inputs=(JobInput(dataset="flights", version=1, columns=("delay",)),),
    outputs={"o": (ANALYST,)},
    ticket=ticket_digest(TICKET),
    driver=b"",
    opened=False,
    output_key=DataKey.generate(),
    submitted=NOW,
)
GENUINE = SimpleNamespace(
    tier="affirming", simulated=False, tee="sgx", measurement="sgx:1", tcb_status="UpToDate", advisories=(), claims=None
)


class Desk(SimpleNamespace):
    """A desk whose disk takes a moment, and whose verifier finds every quote genuine."""

    def __init__(self):
        super().__init__(
            keys=BrokerKeys.generate(now=NOW),
            state=State(),
            nonces=Nonces(),
            sessions=Sessions(),
            verifier=SimpleNamespace(appraise=lambda *_evidence, **_expected: GENUINE),
            collateral=self,
            tally=Tally(),
            clock=lambda: NOW,
        )
        self.state.apply(JOB.to_change())
        self.collateral_is_newer = True

    async def prepare(self, _quote):
        """Have the collateral at hand."""

    async def keep_memory(self):
        if self.collateral_is_newer:  # Only the first to see it writes it down; others go on meanwhile.
            self.collateral_is_newer = False
            await asyncio.sleep(0.05)

    async def write(self, _kind, _facts, *, changes=()):
        self.state.apply(*changes)
        await asyncio.sleep(0.01)


def request(desk, keys):
    public = keys.public
    asked = {
        "role": "driver",
        "nonce": encode64(desk.nonces.issue(now=NOW)),
        "evidence": Evidence(tee="sgx", quote=b"quote").to_json(),
        "spki": encode64(public.spki),
        "kem": encode64(public.kem),
        "job": JOB.digest,
        "ticket": encode64(TICKET),
    }
    return json.dumps(asked).encode()


def test_ticket_admits_one_driver_also_when_two_come_at_once():
    async def race():
        desk = Desk()
        door = WorkloadsDoor(desk)
        first, second = WorkloadKeys.generate(), WorkloadKeys.generate()
        answers = await asyncio.gather(
            *(door.attest(request(desk, keys)) for keys in (first, second)), return_exceptions=True
        )
        return desk, answers

    desk, answers = asyncio.run(race())
    refused = [one for one in answers if isinstance(one, ConflictError)]
    assert len(refused) == 1
    assert "used by another driver" in refused[0].message
    (session,) = desk.sessions.open_at(NOW)
    (job,) = desk.state.jobs.values()
    assert session.key_text.endswith(job.driver.hex())


def test_one_driver_that_attests_twice_at_once_is_one_driver():
    async def race():
        desk = Desk()
        door = WorkloadsDoor(desk)
        keys = WorkloadKeys.generate()
        return await asyncio.gather(*(door.attest(request(desk, keys)) for _ in range(2)))

    first, second = asyncio.run(race())
    assert first["session"] != second["session"]
