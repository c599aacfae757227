"""Fusion is a meet: any order, any grouping, any repetition, and never wider than one of its policies."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.policy import (
    ApprovalRule,
    Columns,
    DatasetRules,
    DataUsePolicy,
    Facts,
    FileRules,
    FusedPolicy,
    Grant,
    MinimumGroup,
    OutputRules,
    Programs,
    Quota,
    ServingRules,
    TeeRequirements,
    evaluate,
    fuse,
)
from strongroom.statements import PartyId

START = datetime(2027, 1, 1, tzinfo=UTC)
COLUMNS = ("id", "Name", "name", "age", "city")
PURPOSES = ("research", "teaching", "billing")
MEASURED = "sgx:" + "a" * 64
# The same keys under several names, as owners that never met would write them.
PARTIES = tuple(PartyId(name=name, fingerprint=f"{key:032x}") for key in range(3) for name in ("ann", "bob", "cat"))


def _one_each(parties: tuple[PartyId, ...]) -> tuple[PartyId, ...]:
    return tuple({party.fingerprint: party for party in parties}.values())


some_parties = st.lists(st.sampled_from(PARTIES), max_size=4).map(tuple).map(_one_each)
moments = st.integers(0, 1000).map(lambda hours: START + timedelta(hours=hours))


some_serving = st.none() | st.builds(
    ServingRules,
    callers=some_parties,
    quotas=st.lists(st.builds(Quota, answers=st.integers(1, 9), seconds=st.sampled_from((1, 60))), min_size=1).map(
        tuple
    ),
    kinds=st.lists(st.sampled_from(("labels", "scores", "text")), unique=True).map(tuple),
    digits=st.integers(1, 6),
    top=st.none() | st.integers(1, 5),
    tokens=st.integers(1, 50),
)


@st.composite
def data_use_policies(draw: st.DrawFn) -> DataUsePolicy:
    """Draw a policy over few datasets, columns and parties, so that policies overlap."""
    of = draw(some_parties)
    return DataUsePolicy(
        dataset=draw(st.sampled_from(["accounts", "sales", "claims"])),
        version=draw(st.integers(1, 3)),
        owner=PARTIES[0],
        purposes=tuple(draw(st.lists(st.sampled_from(PURPOSES), unique=True))),
        analysts=draw(some_parties),
        not_before=draw(st.none() | moments),
        expires=draw(moments),
        max_uses=None,
        lease=timedelta(seconds=draw(st.integers(1, 1000))),
        programs=Programs(sql=True),
        columns=Columns(
            allow=draw(st.just(("*",)) | st.lists(st.sampled_from(COLUMNS), unique=True).map(tuple)),
            withhold=tuple(draw(st.lists(st.sampled_from(COLUMNS), unique=True, max_size=2))),
        ),
        tee=TeeRequirements(
            allow_simulated=False,
            tiers=("affirming",),
            tcb=("UpToDate",),
            advisories_accepted=(),
            measurements=MappingProxyType({"driver": (), "worker": (MEASURED,), "egress": ()}),
        ),
        outputs=OutputRules(
            recipients=draw(some_parties),
            minimum_group=MinimumGroup(
                size=draw(st.integers(1, 50)), unit=draw(st.none() | st.sampled_from(("id", "city")))
            ),
            approvals=ApprovalRule(needed=draw(st.integers(1, len(of))), of=of) if of else ApprovalRule(),
            max_rows=draw(st.none() | st.integers(1, 100)),
            files=draw(
                st.none()
                | st.builds(
                    FileRules,
                    recipients=some_parties,
                    owner=st.none() | some_parties.filter(bool).map(lambda those: those[0]),
                    max_bytes=st.integers(1, 100),
                )
            ),
        ),
        serving=draw(some_serving),
    )


few = st.lists(data_use_policies(), min_size=1, max_size=4)


def _rule(fused: FusedPolicy, dataset: str) -> DatasetRules:
    (rule,) = (rule for rule in fused.rules if rule.dataset == dataset)
    return rule


@settings(max_examples=40, deadline=None)
@given(few, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(policies: list[DataUsePolicy], random: object) -> None:
    shuffled = [*policies, *policies]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fuse(shuffled).encode() == fuse(policies).encode()


@settings(max_examples=40, deadline=None)
@given(few, few, few)
def test_grouping_does_not_matter(a: list[DataUsePolicy], b: list[DataUsePolicy], c: list[DataUsePolicy]) -> None:
    left, middle, right = fuse(a), fuse(b), fuse(c)
    together = fuse([*a, *b, *c]).encode()
    assert left.meet(middle).meet(right).encode() == together
    assert left.meet(middle.meet(right)).encode() == together
    assert left.meet(left) == left
    assert left.meet(middle).digest == middle.meet(left).digest


@settings(max_examples=60, deadline=None)
@given(few)
def test_fused_policy_is_never_wider_than_one_of_its_policies(policies: list[DataUsePolicy]) -> None:
    fused = fuse(policies)
    for policy in policies:
        outputs, rule = policy.outputs, _rule(fused, policy.dataset)
        assert set(fused.purposes) <= set(policy.purposes)
        assert set(fused.analysts) <= set(policy.analysts)
        assert set(fused.recipients) <= set(outputs.recipients)
        assert fused.expires <= policy.expires
        assert fused.lease <= policy.lease
        assert policy.not_before is None or (fused.not_before is not None and fused.not_before >= policy.not_before)
        assert outputs.max_rows is None or (fused.max_rows is not None and fused.max_rows <= outputs.max_rows)
        if fused.files is not None:
            assert outputs.files is not None
            assert set(fused.files.recipients) <= set(outputs.files.recipients)
            assert fused.files.max_bytes <= outputs.files.max_bytes
            assert fused.files.owner is None or fused.files.owner == outputs.files.owner
        if fused.serving is not None:
            assert policy.serving is not None
            assert set(fused.serving.callers) <= set(policy.serving.callers)
            assert set(fused.serving.kinds) <= set(policy.serving.kinds)
            assert fused.serving.digits <= policy.serving.digits
            assert fused.serving.tokens <= policy.serving.tokens
            assert policy.serving.top is None or (fused.serving.top or 10**9) <= policy.serving.top
            for quota in policy.serving.quotas:
                assert any(
                    kept.seconds == quota.seconds and kept.answers <= quota.answers for kept in fused.serving.quotas
                )
        assert rule.group_size >= outputs.minimum_group.size
        assert fused.minimum_group.size >= outputs.minimum_group.size
        assert outputs.minimum_group.unit is None or outputs.minimum_group.unit in rule.units
        assert not outputs.approvals.needed or any(
            kept.needed == outputs.approvals.needed and set(kept.of) == set(outputs.approvals.of)
            for kept in fused.approvals
        )
        for column in (*COLUMNS, "*", "NAME", "unknown"):
            assert policy.columns.permits(column) or not fused.permits_column(policy.dataset, column)


@settings(max_examples=40, deadline=None)
@given(few, data_use_policies())
def test_one_more_policy_never_adds_permission(policies: list[DataUsePolicy], more: DataUsePolicy) -> None:
    before, after = fuse(policies), fuse([*policies, more])
    assert set(after.recipients) <= set(before.recipients)
    assert set(after.analysts) <= set(before.analysts)
    assert set(after.purposes) <= set(before.purposes)
    assert after.expires <= before.expires
    assert after.minimum_group.size >= before.minimum_group.size
    assert {(rule.needed, frozenset(rule.of)) for rule in before.approvals} <= {
        (rule.needed, frozenset(rule.of)) for rule in after.approvals
    }
    for dataset in before.datasets:
        for column in (*COLUMNS, "*"):
            assert before.permits_column(dataset, column) or not after.permits_column(dataset, column)


@settings(max_examples=100, deadline=None)
@given(few, moments, st.data())
def test_what_the_fused_policy_permits_every_owner_grants_and_nothing_else(
    policies: list[DataUsePolicy], now: datetime, data: st.DataObject
) -> None:
    # Where the fused policy permits anything, mostly that is drawn, so that the interesting side is met.
    fused = fuse(policies)
    purpose = data.draw(st.sampled_from((*fused.purposes * 3, *PURPOSES)))
    analyst = data.draw(st.sampled_from((*fused.analysts * 9, *PARTIES)))
    recipient = data.draw(st.sampled_from((*fused.recipients * 9, *PARTIES)))
    column = data.draw(st.sampled_from(COLUMNS))
    permitted = (
        purpose in fused.purposes
        and analyst in fused.analysts
        and recipient in fused.recipients
        and (fused.not_before is None or now >= fused.not_before)
        and now < fused.expires
        and all(fused.permits_column(dataset, column) for dataset in fused.datasets)
    )
    asked = replace(_facts(), purpose=purpose, analyst=analyst, recipients=(recipient,), columns=(column,))
    decisions = [evaluate(policy, replace(asked, dataset=policy.dataset), now=now) for policy in policies]
    assert permitted == all(isinstance(decision, Grant) for decision in decisions)
    for decision in decisions:
        if permitted and isinstance(decision, Grant):
            assert decision.lease >= min(fused.lease, fused.expires - now)


def _facts() -> Facts:
    return Facts(
        dataset="",
        purpose="",
        analyst=PARTIES[0],
        kind="sql",
        program="sha256:" + "0" * 64,
        role="worker",
        tier="affirming",
        simulated=False,
        tee="sgx",
        measurement=MEASURED,
        tcb_status="UpToDate",
        advisories=(),
        columns=(),
        recipients=(),
        uses=0,
        revoked=False,
        first_use=True,
    )


@settings(max_examples=40, deadline=None)
@given(few)
def test_folding_by_hand_is_fusing(policies: list[DataUsePolicy]) -> None:
    by_hand = reduce(lambda left, right: left.meet(right), [FusedPolicy.of(policy) for policy in policies])
    assert by_hand.encode() == fuse(policies).encode()
    assert FusedPolicy.decode(by_hand.encode()).digest == by_hand.digest
