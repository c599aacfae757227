"""Every rule of a policy refuses alone, with a reason, and a grant ends in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from strongroom.policy import DataUsePolicy, Facts, Grant, Quota, Refusal, ServingRules, evaluate, policy_digest
from strongroom.statements import PartyId, SigningKey

Make = Callable[..., DataUsePolicy]
MakeFacts = Callable[..., Facts]
CALLER = PartyId(name="caller", fingerprint="c" * 32)
STRANGER = PartyId(name="stranger", fingerprint="d" * 32)


def _reasons(decision: Grant | Refusal) -> tuple[str, ...]:
    return decision.reasons if isinstance(decision, Refusal) else ()


def test_facts_that_agree_with_the_policy_are_granted(
    policy: DataUsePolicy, make_facts: MakeFacts, now: datetime
) -> None:
    decision = evaluate(policy, make_facts(), now=now)
    assert decision == Grant(
        dataset="accounts",
        columns=("age", "city"),
        lease=timedelta(seconds=300),
        expires=now + timedelta(seconds=300),
        policy_digest=policy_digest(policy),
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "loans"}, "the request is for dataset 'loans', the policy is for 'accounts'"),
        ({"revoked": True}, "dataset 'accounts' is revoked by its owner"),
        ({"purpose": "marketing"}, "the purpose is 'marketing', must be fraud research"),
        ({"purpose": "Fraud research"}, "the purpose is 'Fraud research'"),
        ({"kind": "fortran"}, "the job is of kind 'fortran', must be one of sql, spark, python"),
        ({"kind": "sql", "program": "sha256:" + "0" * 64}, "the sql program has digest sha256:000"),
        ({"program": "sha256:" + "0" * 64}, "the spark program has digest sha256:000"),
        ({"columns": ("age", "name")}, "column 'name' is withheld by the owner"),
        ({"columns": ("NAME",)}, "column 'NAME' is withheld by the owner"),
        ({"columns": ("*",)}, "the whole dataset is asked for, must be among all columns but name"),
        ({"columns": ()}, "the whole dataset is asked for"),
        ({"simulated": True}, "the workload runs in a simulated TEE"),
        ({"tier": "warning"}, "the attestation result is warning, must be affirming"),
        ({"tier": "none"}, "the attestation result is none"),
        ({"tier": "contraindicated"}, "the attestation result is contraindicated"),
        ({"tcb_status": "OutOfDate"}, "the platform's TCB status is OutOfDate, must be UpToDate"),
        ({"advisories": ("INTEL-SA-00615",)}, "advisory INTEL-SA-00615 is open"),
        ({"measurement": "sgx:" + "d" * 64}, "the worker's measurement is sgx:ddd"),
        ({"role": "egress"}, "the egress's measurement is sgx:aaa"),
        ({"role": "broker"}, "the workload's role is 'broker', must be one of driver, egress, endpoint, worker"),
        ({"tee": "tdx"}, "the measurement is of kind sgx, the evidence is of kind tdx"),
        ({"recipients": ()}, "the job names no recipient"),
    ],
)
def test_one_fact_that_differs_is_the_one_reason(
    make_policy: Make, make_facts: MakeFacts, now: datetime, change: dict[str, Any], reason: str
) -> None:
    decision = evaluate(make_policy(withhold=["name"]), make_facts(**change), now=now)
    expected = 2 if change.get("simulated") and change.get("tier") else 1
    assert len(_reasons(decision)) == expected
    assert reason in _reasons(decision)[0]


def test_analyst_and_recipients_are_compared_by_key_and_not_by_name(
    policy: DataUsePolicy, make_facts: MakeFacts, analyst: SigningKey, stranger: SigningKey, now: datetime
) -> None:
    impostor = PartyId(name="alice", fingerprint=stranger.party.fingerprint)
    renamed = PartyId(name="al", fingerprint=analyst.party.fingerprint)
    reasons = _reasons(evaluate(policy, make_facts(analyst=impostor, recipients=(impostor,)), now=now))
    assert [reason.split(",")[0] for reason in reasons] == [
        f"the analyst is {impostor}",
        f"the recipient {impostor} is not permitted",
    ]
    assert isinstance(evaluate(policy, make_facts(analyst=renamed), now=now), Grant)


def test_refusal_lists_every_reason_in_the_order_of_the_specification(
    policy: DataUsePolicy, make_facts: MakeFacts, stranger: SigningKey
) -> None:
    facts = make_facts(
        dataset="loans",
        revoked=True,
        purpose="x",
        analyst=stranger.party,
        program="sha256:" + "0" * 64,
        simulated=True,
        tier="contraindicated",
        tcb_status="Revoked",
        advisories=("INTEL-SA-1",),
        measurement="sgx:" + "0" * 64,
        recipients=(stranger.party,),
    )
    reasons = _reasons(evaluate(policy, facts, now=policy.expires))
    starts = ["the request", "dataset", "the policy expired", "the purpose", "the analyst", "the spark program"]
    starts += ["the workload runs in a simulated", "the attestation result", "the platform's TCB", "advisory"]
    starts += ["the worker's measurement", "the recipient"]
    assert len(reasons) == len(starts)
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=True))


def test_sql_needs_no_approval_where_the_owner_permits_all_checked_queries(
    make_policy: Make, make_facts: MakeFacts, now: datetime
) -> None:
    unread = make_facts(kind="sql", program="sha256:" + "0" * 64)
    assert isinstance(evaluate(make_policy(sql=True), unread, now=now), Grant)
    spark = make_facts(kind="spark", program="sha256:" + "0" * 64)
    (reason,) = _reasons(evaluate(make_policy(sql=True), spark, now=now))
    assert reason.endswith(", or a SQL query")


def test_simulated_tee_is_accepted_only_by_name_and_is_then_the_only_contraindicated_one(
    make_policy: Make, make_facts: MakeFacts, now: datetime
) -> None:
    policy = make_policy(allow_simulated=True)
    simulated = make_facts(simulated=True, tier="contraindicated")
    assert isinstance(evaluate(policy, simulated, now=now), Grant)
    hardware = make_facts(simulated=False, tier="contraindicated")
    assert "contraindicated" in _reasons(evaluate(policy, hardware, now=now))[0]
    stale = make_facts(simulated=True, tier="none")
    assert "none" in _reasons(evaluate(policy, stale, now=now))[0]
    old = make_facts(simulated=True, tier="contraindicated", tcb_status="OutOfDate")
    assert len(_reasons(evaluate(policy, old, now=now))) == 1


@pytest.mark.parametrize("empty", ["purposes", "analysts", "allow", "approved", "measurements", "recipients"])
def test_empty_list_denies(make_policy: Make, make_facts: MakeFacts, now: datetime, empty: str) -> None:
    policy = make_policy(**{empty: {} if empty == "measurements" else []})
    decision = evaluate(policy, make_facts(), now=now)
    assert isinstance(decision, Refusal)


def test_uses_are_counted_by_job_so_a_running_job_keeps_its_keys(
    make_policy: Make, make_facts: MakeFacts, now: datetime
) -> None:
    from dataclasses import replace

    policy = replace(make_policy(), max_uses=2)
    assert isinstance(evaluate(policy, make_facts(uses=1, first_use=True), now=now), Grant)
    assert isinstance(evaluate(policy, make_facts(uses=2, first_use=False), now=now), Grant)
    (reason,) = _reasons(evaluate(policy, make_facts(uses=2, first_use=True), now=now))
    assert reason == "the dataset was opened by 2 jobs, and at most 2 may open it"


def test_grant_ends_with_the_policy_when_the_lease_would_be_longer(
    policy: DataUsePolicy, make_facts: MakeFacts
) -> None:
    late = policy.expires - timedelta(seconds=7)
    decision = evaluate(policy, make_facts(), now=late)
    assert isinstance(decision, Grant)
    assert decision.expires == policy.expires
    assert decision.lease == timedelta(seconds=7)


def test_policy_permits_from_not_before_until_just_before_it_expires(
    make_policy: Make, make_facts: MakeFacts, now: datetime
) -> None:
    from dataclasses import replace

    policy = replace(make_policy(), not_before=now)
    second = timedelta(seconds=1)
    assert "begins at" in _reasons(evaluate(policy, make_facts(), now=now - second))[0]
    assert isinstance(evaluate(policy, make_facts(), now=now), Grant)
    assert isinstance(evaluate(policy, make_facts(), now=policy.expires - second), Grant)
    assert "expired at" in _reasons(evaluate(policy, make_facts(), now=policy.expires))[0]


def test_whole_dataset_of_files_is_granted_only_without_withheld_columns(
    make_policy: Make, make_facts: MakeFacts, now: datetime
) -> None:
    assert isinstance(evaluate(make_policy(), make_facts(columns=()), now=now), Grant)
    assert isinstance(evaluate(make_policy(allow=["age"]), make_facts(columns=()), now=now), Refusal)


def _serving(**changes: Any) -> ServingRules:
    parts: dict[str, Any] = {
        "callers": (CALLER,),
        "quotas": (Quota(answers=10, seconds=60),),
        "kinds": ("labels",),
        "digits": 3,
        "top": None,
        "tokens": 1,
    }
    return ServingRules(**{**parts, **changes})


def _served(policy: Any, **changes: Any) -> Any:
    measured = {**policy.tee.measurements, "endpoint": ("sgx:" + "e" * 64,)}
    return replace(policy, tee=replace(policy.tee, measurements=measured), serving=_serving(**changes))


SERVE = {"kind": "serve", "role": "endpoint", "measurement": "sgx:" + "e" * 64, "recipients": (CALLER,)}


def test_endpoint_gets_keys_for_the_callers_that_the_owner_names(
    make_policy: Make, make_facts: MakeFacts, now: datetime
) -> None:
    facts = make_facts(**SERVE)
    policy = _served(make_policy(withhold=["name"]))
    assert isinstance(evaluate(policy, facts, now=now), Grant)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (({}, {"callers": ()}), "the caller caller:"),
        (({"recipients": (*SERVE["recipients"], STRANGER)}, {}), "the caller stranger:"),
        (({"role": "driver", "measurement": "sgx:" + "a" * 64}, {}), "an endpoint serves, and nobody else"),
        (({"program": "sha256:" + "9" * 64}, {}), "the serve program has digest"),
    ],
)
def test_serving_is_refused_for_one_reason(
    make_policy: Make, make_facts: MakeFacts, now: datetime, change: tuple[Any, Any], reason: str
) -> None:
    facts, rules = change
    asked = make_facts(**{**SERVE, **facts})
    policy = _served(make_policy(withhold=["name"]), **rules)
    reasons = _reasons(evaluate(policy, asked, now=now))
    assert any(reason in one for one in reasons)


def test_without_serving_rules_no_endpoint_answers(make_policy: Make, make_facts: MakeFacts, now: datetime) -> None:
    facts = make_facts(**SERVE)
    policy = replace(_served(make_policy(withhold=["name"])), serving=None)
    assert _reasons(evaluate(policy, facts, now=now)) == (
        "the policy has no [serving], so no endpoint may answer from this dataset",
    )


def test_endpoint_gets_no_keys_for_an_ordinary_job(make_policy: Make, make_facts: MakeFacts, now: datetime) -> None:
    facts = make_facts(role="endpoint", measurement="sgx:" + "e" * 64)
    assert any(
        "is not for the role" in one
        for one in _reasons(evaluate(_served(make_policy(withhold=["name"])), facts, now=now))
    )
