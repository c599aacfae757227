"""Several owners' policies become the strictest one; what it says is kept in transport."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from strongroom.errors import PolicyError
from strongroom.policy import (
    ApprovalRule,
    Columns,
    DataUsePolicy,
    DocumentError,
    FusedPolicy,
    FusionError,
    MinimumGroup,
    fuse,
    policy_digest,
)
from strongroom.statements import PartyId, SigningKey

Make = Callable[..., DataUsePolicy]


def test_no_policy_is_no_permission() -> None:
    with pytest.raises(FusionError, match="no policy to fuse"):
        fuse([])


def test_fused_policy_is_the_strictest_of_all(
    make_policy: Make, owner: SigningKey, analyst: SigningKey, stranger: SigningKey
) -> None:
    bank = make_policy(
        purposes=["fraud research", "teaching"],
        recipients=[analyst.party, owner.party],
        minimum_group=5,
        unit="customer",
        lease_seconds=60,
    )
    shop = make_policy(
        dataset="sales",
        analysts=[analyst.party, stranger.party],
        recipients=[analyst.party, stranger.party],
        expires=datetime(2027, 12, 1, tzinfo=UTC),
        minimum_group=20,
        withhold=["card"],
    )
    rules = replace(shop.outputs, max_rows=100, approvals=ApprovalRule(needed=1, of=(stranger.party,)))
    shop = replace(shop, outputs=rules, not_before=datetime(2027, 2, 1, tzinfo=UTC))
    fused = fuse([bank, shop])
    assert fused.datasets == ("accounts", "sales")
    assert fused.policies == tuple(sorted([policy_digest(bank), policy_digest(shop)]))
    assert fused.purposes == ("fraud research",)
    assert fused.analysts == (analyst.party,)
    assert fused.recipients == (analyst.party,)
    assert fused.minimum_group == MinimumGroup(size=20, unit="customer")
    assert fused.approvals == (ApprovalRule(needed=1, of=(stranger.party,)),)
    assert fused.max_rows == 100
    assert fused.not_before == datetime(2027, 2, 1, tzinfo=UTC)
    assert fused.expires == datetime(2027, 12, 1, tzinfo=UTC)
    assert fused.lease == timedelta(seconds=60)
    assert fused.permits_column("accounts", "card")
    assert not fused.permits_column("sales", "Card")
    assert not fused.permits_column("unknown", "card")


def test_every_owner_keeps_its_approval_rule(make_policy: Make, owner: SigningKey, stranger: SigningKey) -> None:
    first, second = make_policy(), make_policy(dataset="sales")
    ask_owner = ApprovalRule(needed=1, of=(owner.party,))
    ask_both = ApprovalRule(needed=2, of=(owner.party, stranger.party))
    first = replace(first, outputs=replace(first.outputs, approvals=ask_owner))
    second = replace(second, outputs=replace(second.outputs, approvals=ask_both))
    fused = fuse([first, second, make_policy(dataset="third")])
    assert {(rule.needed, len(rule.of)) for rule in fused.approvals} == {(1, 1), (2, 2)}


def test_party_known_under_two_names_is_kept_under_one(make_policy: Make, analyst: SigningKey) -> None:
    renamed = PartyId(name="zed", fingerprint=analyst.party.fingerprint)
    there, back = make_policy(), make_policy(dataset="sales", analysts=[renamed])
    assert [str(party) for party in fuse([there, back]).analysts] == [str(analyst.party)]
    assert fuse([there, back]).digest == fuse([back, there]).digest


def test_two_policies_for_one_dataset_are_met_column_by_column(make_policy: Make) -> None:
    fused = fuse([make_policy(allow=["age", "city"]), make_policy(withhold=["City"], minimum_group=30)])
    (rule,) = fused.rules
    assert rule.columns == Columns(allow=("age", "city"), withhold=("City",))
    assert not fused.permits_column("accounts", "city")
    assert rule.group_size == 30


def test_fused_policy_is_the_same_after_transport(make_policy: Make) -> None:
    fused = fuse([make_policy(unit="id"), make_policy(dataset="sales", withhold=["card"])])
    again = FusedPolicy.decode(fused.encode())
    assert again == fused
    assert again.digest == fused.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document | {"recipients": list(reversed(document["recipients"]))},
        lambda document: document | {"max_rows": None},
        lambda document: document | {"version": 2},
        lambda document: document | {"approvals": None},
        lambda document: document | {"extra": 1},
        lambda document: document | {"rules": []},
        lambda document: {key: value for key, value in document.items() if key != "approvals"},
        lambda document: [document],
    ],
)
def test_fused_policy_in_any_other_form_is_refused(
    make_policy: Make, owner: SigningKey, analyst: SigningKey, change: Callable[..., object]
) -> None:
    fused = fuse([make_policy(recipients=[owner.party, analyst.party])])
    assert len(fused.recipients) == 2
    changed = json.dumps(change(json.loads(fused.encode())), separators=(",", ":"), sort_keys=True).encode()
    with pytest.raises(PolicyError):
        FusedPolicy.decode(changed)


def test_fused_policy_that_is_not_json_is_refused() -> None:
    for data in (b"", b"\xff", b"[" * 100_000, b"{}"):
        with pytest.raises((FusionError, DocumentError)):
            FusedPolicy.decode(data)
