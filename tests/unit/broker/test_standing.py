"""An earlier grant stands only while nothing it rested on has changed, and only as long as every policy allows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from strongroom.broker.records import Dataset, Job, JobInput
from strongroom.broker.release import InputCase, Ruling, Standing, TeeFacts, rule
from strongroom.envelope.keys import DataKey
from strongroom.policy import parse_policy_toml, policy_template
from strongroom.policy.evaluate import Refusal
from strongroom.statements import SigningKey

NOW = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)
OWNER, ANALYST = (SigningKey.generate(name=name).party for name in ("bank", "alice"))
PROGRAM = "sha256:" + "5" * 64
DRIVER = "sgx:" + "d" * 64
TEE = TeeFacts(
    role="driver",
    tier="affirming",
    simulated=False,
    tee="sgx",
    measurement=DRIVER,
    tcb_status="UpToDate",
    advisories=(),
)


def policy(dataset, **more):
    asked = {
        "dataset": dataset,
        "owner": OWNER,
        "analysts": [ANALYST],
        "purposes": ["fraud research"],
        "expires": datetime(2028, 1, 1, tzinfo=UTC),
        "approved": [PROGRAM],
        "recipients": [ANALYST],
        "measurements": {"driver": [DRIVER], "worker": [DRIVER], "egress": [DRIVER]},
    }
    return parse_policy_toml(policy_template(**(asked | more)))


def case(name, **more):
    dataset = Dataset(
        name=name,
        version=1,
        revision=1,
        owner=OWNER,
        kind="table",
        columns=("age",),
        manifest_digest="sha256:1",
        content="sha256:2",
        dek=DataKey.generate(),
    )
    return InputCase(dataset=dataset, name=name, columns=("age",), policy=policy(name, **more), uses=0, revoked=False)


JOB = Job(
    id="j",
    digest="sha384:" + "0" * 96,
    analyst=ANALYST,
    purpose="fraud research",
    kind="spark",
    program=PROGRAM,
    inputs=tuple(JobInput(dataset=name, version=1, columns=("age",)) for name in ("a", "b")),
    outputs={"o": (ANALYST,)},
    ticket=b"",
    driver=b"",
    opened=True,
    output_key=DataKey.generate(),
    submitted=NOW,
)
CASES = (case("a"), case("b", expires=datetime(2027, 6, 1, 13, 0, tzinfo=UTC)))
STANDING = Standing(job=JOB, cases=CASES, tee=TEE, grants=rule(JOB, CASES, tee=TEE, now=NOW).grants)


@pytest.mark.parametrize("minutes", [0, 30, 58, 59])
def test_again_means_what_ruling_anew_would_say(minutes):
    later = timedelta(minutes=minutes)
    anew = rule(JOB, CASES, tee=TEE, now=NOW + later)
    assert isinstance(anew, Ruling)
    assert STANDING.rule_again(JOB, tuple(replace(one) for one in CASES), tee=TEE, now=NOW + later) == anew.term


@pytest.mark.parametrize("later", [timedelta(hours=1), timedelta(days=400)])
def test_grant_does_not_stand_once_one_policy_ended(later):
    assert STANDING.rule_again(JOB, CASES, tee=TEE, now=NOW + later) is None
    assert isinstance(rule(JOB, CASES, tee=TEE, now=NOW + later), Refusal)


def test_grant_does_not_stand_before_a_policy_begins():
    cases = (replace(CASES[0], policy=replace(CASES[0].policy, not_before=NOW)), CASES[1])
    standing = replace(STANDING, cases=cases)
    assert standing.rule_again(JOB, cases, tee=TEE, now=NOW) is not None
    assert standing.rule_again(JOB, cases, tee=TEE, now=NOW - timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    "changed",
    [
        (replace(CASES[0], revoked=True), CASES[1]),
        (replace(CASES[0], uses=1), CASES[1]),
        (replace(CASES[0], columns=("age", "name")), CASES[1]),
        (replace(CASES[0], policy=policy("a", version=2)), CASES[1]),
        (replace(CASES[0], policy=None), CASES[1]),
        (replace(CASES[0], dataset=None), CASES[1]),
        (replace(CASES[0], dataset=replace(CASES[0].dataset, revision=2)), CASES[1]),
        CASES[:1],
        (*CASES, CASES[0]),
    ],
)
def test_grant_does_not_stand_once_an_input_changed(changed):
    assert STANDING.rule_again(JOB, changed, tee=TEE, now=NOW) is None


def test_grant_stands_for_another_workload_with_the_same_attested_facts():
    assert STANDING.rule_again(JOB, CASES, tee=replace(TEE), now=NOW) == rule(JOB, CASES, tee=TEE, now=NOW).term


def test_grant_does_not_stand_for_another_job_or_another_tee():
    assert STANDING.rule_again(replace(JOB, purpose="marketing"), CASES, tee=TEE, now=NOW) is None
    assert STANDING.rule_again(JOB, CASES, tee=replace(TEE, tcb_status="OutOfDate"), now=NOW) is None
