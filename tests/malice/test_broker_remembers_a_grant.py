"""A workload comes after another of its job was released the same keys, and hopes the broker still means that."""

import asyncio
import json
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from strongroom.attestation.roles import Role
from strongroom.broker.desk import Desk, RecordedRefusalError
from strongroom.broker.doors.workloads import WorkloadsDoor
from strongroom.broker.keys import BrokerKeys
from strongroom.broker.records import POLICY, REVOCATION, USES, Dataset, Job, JobInput, text_change
from strongroom.broker.release import TeeFacts
from strongroom.broker.requests import MalformedRequestError
from strongroom.broker.sessions import Sessions
from strongroom.broker.state import State
from strongroom.envelope.keys import DataKey
from strongroom.ledger.entry import Entry
from strongroom.policy import parse_policy_toml, policy_template
from strongroom.policy.document import sign_policy
from strongroom.statements import SigningKey

NOW = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)
OWNER_KEY = SigningKey.generate(name="bank")
OWNER, ANALYST = OWNER_KEY.party, SigningKey.generate(name="alice").party
PROGRAM, DRIVER = "sha256:" + "5" * 64, "sgx:" + "d" * 64
JOB = Job(
    id="0" * 32,
    digest="sha384:" + "0" * 96,
    analyst=ANALYST,
    purpose="fraud research",
    kind="spark",
    program=PROGRAM,
    inputs=(JobInput(dataset="flights", version=1, columns=("delay",)),),
    outputs={"o": (ANALYST,)},
    ticket=b"",
    driver=b"",
    opened=True,
    output_key=DataKey.generate(),
    submitted=NOW,
)
FLIGHTS = Dataset(
    name="flights",
    version=1,
    revision=1,
    owner=OWNER,
    kind="table",
    columns=("delay",),
    manifest_digest="sha256:1",
    content="sha256:2",
    dek=DataKey.generate(),
)
ASKED = json.dumps({"datasets": ["flights"]}).encode()


def policy(**more):
    asked = {
        "dataset": "flights",
        "owner": OWNER,
        "analysts": [ANALYST],
        "purposes": ["fraud research"],
        "expires": datetime(2028, 1, 1, tzinfo=UTC),
        "approved": [PROGRAM],
        "recipients": [ANALYST],
        "measurements": {"driver": [DRIVER], "worker": [DRIVER], "egress": [DRIVER]},
    }
    return parse_policy_toml(policy_template(**(asked | more)))


class Broker(SimpleNamespace):
    """The door for workloads over a state that tests change, and a ledger that is a list."""

    def __init__(self):
        super().__init__(keys=BrokerKeys.generate(now=NOW), state=State(), sessions=Sessions(), now=NOW, ledger=[])
        self._cases = OrderedDict()
        self.state.apply(JOB.to_change(), FLIGHTS.to_change())
        self.put(policy())
        self.door = WorkloadsDoor(self)

    def put(self, document):
        self.state.apply(text_change(POLICY, "flights", sign_policy(document, OWNER_KEY).encode()))

    def clock(self):
        return self.now

    def cases(self, job):
        return Desk.cases(self, job)

    async def write_grant(self, form, facts, *, changes, administrative):
        assert (changes, administrative) == ([], False)
        self.ledger.append(Entry.decode(form.fill(facts, time=self.now)))
        return SimpleNamespace(index=len(self.ledger) - 1)

    async def refuse(self, message, *, facts, reasons, hint=""):
        raise RecordedRefusalError(message, reasons=reasons, index=0, hint=hint)

    def attested(self, *, collateral="sha256:c", **more):
        """Return the session of one more workload of the job."""
        facts = {"tier": "affirming", "simulated": False, "tee": "sgx", "measurement": DRIVER, "tcb_status": "UpToDate"}
        result = SimpleNamespace(**facts | {"advisories": (), "collateral_digest": collateral} | more)
        return self.sessions.start(
            role=Role.DRIVER,
            job=JOB.id,
            party=JOB.analyst.fingerprint,
            tee=TeeFacts.of(result, role="driver"),
            result=result,
            key_text="sha384:" + "1" * 96,
            now=self.now,
        )

    def release(self, session, body=ASKED):
        session.counter += 1
        return asyncio.run(self.door.release(session, body))

    def reasons(self, session):
        granted = len(self.ledger)
        with pytest.raises(RecordedRefusalError) as refused:
            self.release(session)
        assert len(self.ledger) == granted
        return " ".join(refused.value.reasons)


@pytest.fixture
def broker():
    broker = Broker()
    broker.release(broker.attested())
    return broker


def test_another_workload_of_the_job_gets_its_own_entry(broker):
    broker.release(broker.attested())
    first, second = broker.ledger
    assert first == second


def test_revoked_in_between(broker):
    earlier = broker.attested()
    broker.state.apply(text_change(REVOCATION, "flights@1", "an error"))
    assert "is revoked by its owner" in broker.reasons(earlier)
    assert "is revoked by its owner" in broker.reasons(broker.attested())


def test_used_up_in_between(broker):
    """A job that has opened its inputs goes on; one that has not meets the uses that others made meanwhile."""
    broker.put(replace(policy(version=2), max_uses=1))
    broker.release(broker.attested())
    broker.state.apply(text_change(USES, "flights@1", "1"), replace(JOB, opened=False).to_change())
    assert "at most 1 may open it" in broker.reasons(broker.attested())


def test_policy_replaced_in_between(broker):
    broker.put(policy(version=2, purposes=["billing"]))
    assert "must be billing" in broker.reasons(broker.attested())


def test_policy_that_grants_the_same_is_named_in_the_next_entry(broker):
    broker.put(policy(version=2))
    broker.release(broker.attested())
    first, second = (entry.facts["datasets"][0]["policy"] for entry in broker.ledger)
    assert first != second == broker.state.policy_digests["flights"]


@pytest.mark.parametrize("later", [timedelta(days=214), timedelta(days=4000)])
def test_clock_moved_beyond_the_policys_end(broker, later):
    broker.now += later
    assert "expired" in broker.reasons(broker.attested())


def test_clock_moved_before_the_policys_begin():
    broker = Broker()
    broker.put(replace(policy(), not_before=NOW))
    broker.release(broker.attested())
    broker.now -= timedelta(seconds=1)
    assert "begins" in broker.reasons(broker.attested())


def test_lease_is_counted_from_now_and_cut_at_the_policys_end(broker):
    broker.now = datetime(2027, 12, 31, 23, 59, tzinfo=UTC)
    assert broker.release(broker.attested())["lease"] == 60
    assert broker.ledger[-1].facts["expires"] == "2028-01-01T00:00:00Z"


def test_newer_collateral_stands_in_the_next_entry(broker):
    broker.release(broker.attested(collateral="sha256:newer"))
    assert [entry.facts["collateral"] for entry in broker.ledger] == ["sha256:c", "sha256:newer"]


@pytest.mark.parametrize(
    "worse", [{"tcb_status": "OutOfDate"}, {"advisories": ("INTEL-SA-00615",)}, {"measurement": "sgx:" + "e" * 64}]
)
def test_workload_on_a_worse_platform_is_ruled_on_by_itself(broker, worse):
    assert broker.reasons(broker.attested(**worse))


def test_dataset_registered_anew_brings_its_new_key(broker):
    before = broker.release(broker.attested())
    broker.state.apply(replace(FLIGHTS, revision=2, columns=("delay", "carrier")).to_change())
    session = broker.attested()
    place = (JOB.id, Role.DRIVER, frozenset(["flights"]), "sha256:c")
    earlier = broker.door._released[place]
    assert broker.release(session)["policy_digest"] == before["policy_digest"]
    assert broker.door._released[place] is not earlier


@pytest.mark.parametrize("body", [b"", b"{}", b"not JSON"])
def test_request_that_asks_for_nothing_gets_nothing(broker, body):
    with pytest.raises(MalformedRequestError):
        broker.release(broker.attested(), body)
