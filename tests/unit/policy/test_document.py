"""A policy is read whole or not at all, signed by its owner, and written in one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from strongroom.errors import PolicyError
from strongroom.policy import (
    DataUsePolicy,
    DocumentError,
    PolicyFormError,
    PolicyOwnerError,
    parse_policy_toml,
    policy_digest,
    policy_document,
    policy_template,
    read_policy,
    render_policy,
    sign_policy,
    verify_policy,
)
from strongroom.statements import PartyId, SigningKey, Statement, StatementError, sign

Make = Callable[..., DataUsePolicy]


def test_template_of_a_new_policy_denies_programs_and_measurements_until_they_are_named(
    owner: SigningKey, analyst: SigningKey
) -> None:
    text = policy_template(
        dataset="accounts",
        owner=owner.party,
        analysts=[analyst.party],
        purposes=["fraud research"],
        expires=datetime(2028, 1, 1, tzinfo=UTC),
    )
    policy = parse_policy_toml(text)
    assert policy.programs.approved == ()
    assert not policy.programs.sql
    assert set(policy.tee.measurements.values()) == {()}
    assert not policy.tee.allow_simulated
    assert policy.tee.tiers == ("affirming",)
    assert policy.tee.tcb == ("UpToDate",)
    assert policy.outputs.minimum_group.size == 10
    assert policy.lease == timedelta(minutes=5)


def test_minimal_document_gets_the_safe_defaults(owner: SigningKey) -> None:
    policy = parse_policy_toml(
        f"""
        dataset = "accounts"
        version = 3
        owner = "{owner.party}"
        purposes = []
        analysts = []
        expires = 2028-01-01T02:00:00+02:00
        columns.allow = []
        tee.measurements = {{driver = [], worker = [], egress = []}}
        outputs.recipients = []
        """
    )
    assert policy.expires == datetime(2028, 1, 1, tzinfo=UTC)
    assert policy.programs.approved == ()
    assert not policy.programs.sql
    assert policy.outputs.approvals.needed == 0
    assert policy.outputs.minimum_group.size == 10
    assert policy.max_uses is None


def test_signed_policy_is_verified_to_an_equal_one(policy: DataUsePolicy, owner: SigningKey) -> None:
    statement = Statement.decode(sign_policy(policy, owner).encode())
    assert verify_policy(statement) == policy


def test_rendered_policy_parses_back_with_the_same_digest(make_policy: Make) -> None:
    policy = make_policy(withhold=["näme", 'quo"te\\', "tab"], unit="customer id", sql=True, allow_simulated=True)
    again = parse_policy_toml(render_policy(policy))
    assert again == policy
    assert policy_digest(again) == policy_digest(policy)


def test_digest_changes_with_every_part_of_the_policy(make_policy: Make, stranger: SigningKey) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"version": 2},
        {"withhold": ["age"]},
        {"sql": True},
        {"minimum_group": 11},
        {"unit": "id"},
        {"recipients": [stranger.party]},
        {"lease_seconds": 60},
        {"allow_simulated": True},
        {"purposes": ["fraud research", "teaching"]},
    ]
    assert len({policy_digest(make_policy(**change)) for change in changes}) == len(changes)


def test_policy_cannot_be_signed_with_another_partys_key(policy: DataUsePolicy, stranger: SigningKey) -> None:
    with pytest.raises(PolicyOwnerError, match="names the owner bank:"):
        sign_policy(policy, stranger)


def test_payload_with_a_default_left_out_is_not_the_canonical_form(policy: DataUsePolicy, owner: SigningKey) -> None:
    document = policy_document(policy)
    del document["lease"]  # it would be read as the default, which is what it was
    assert read_policy(document) == policy
    with pytest.raises(PolicyFormError, match="canonical form"):
        verify_policy(sign(document, kind="policy", version=1, key=owner))


def test_payload_with_the_time_in_another_zone_is_not_the_canonical_form(
    policy: DataUsePolicy, owner: SigningKey
) -> None:
    document = policy_document(policy) | {"expires": "2028-01-01T01:00:00+01:00"}
    with pytest.raises(PolicyFormError):
        verify_policy(sign(document, kind="policy", version=1, key=owner))


def test_statement_of_another_kind_is_not_a_policy(policy: DataUsePolicy, owner: SigningKey) -> None:
    with pytest.raises(StatementError, match="expected a policy statement"):
        verify_policy(sign(policy_document(policy), kind="job", version=1, key=owner))


def test_every_problem_is_reported_at_once_with_what_was_got_and_expected() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_policy_toml(
            """
            dataset = "Accounts"
            version = true
            purpose = ["fraud"]
            analysts = "alice"
            expires = 2028-01-01
            [tee]
            tiers = ["contraindicated"]
            tcb = ["Revoked"]
            measurements = {driver = ["sgx:00"]}
            [outputs]
            recipients = []
            minimum_group.size = 0
            approvals = {needed = 2, of = []}
            """
        )
    problems = {problem.key: problem for problem in caught.value.problems}
    assert set(problems) == {
        "dataset",
        "version",
        "owner",
        "purposes",
        "analysts",
        "expires",
        "columns",
        "tee.tiers[0]",
        "tee.tcb[0]",
        "tee.measurements.driver[0]",
        "tee.measurements.worker",
        "tee.measurements.egress",
        "outputs.minimum_group.size",
        "outputs.approvals.of",
        "purpose",
    }
    assert problems["version"].got == "got true"
    assert problems["owner"].got == "missing"
    assert problems["owner"].example.startswith('owner = "')
    assert "add T00:00:00Z" in problems["expires"].expected
    assert "did you mean" in problems["purpose"].expected
    assert "affirming, warning" in problems["tee.tiers[0]"].expected
    assert f"{len(problems)} problems" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        ({"columns": {"allow": ["*", "age"]}}, "columns.allow", "alone"),
        ({"columns": {"allow": ["*"], "withhold": ["*"]}}, "columns.withhold", "allow = []"),
        ({"not_before": "2029-01-01T00:00:00Z"}, "expires", "after not_before"),
        ({"purposes": ["a", "a"]}, "purposes", "stands there twice"),
        ({"expires": "2028-01-01T00:00:00"}, "expires", "zone"),
        ({"expires": "2028-02-30T00:00:00Z"}, "expires", "zone"),
        ({"expires": "0001-01-01T00:00:00+14:00"}, "expires", "zone"),
        ({"expires": 1830297600}, "expires", "zone"),
        ({"lease": 0}, "lease", "at least 1"),
        ({"lease": "300"}, "lease", "whole number"),
        ({"lease": 300.0}, "lease", "whole number"),
        ({"max_uses": 0}, "max_uses", "at least 1"),
        ({"purposes": ["two\nlines"]}, "purposes[0]", "printable"),
        ({"purposes": ["\ud800"]}, "purposes[0]", "printable"),
        ({"purposes": [" padded"]}, "purposes[0]", "printable"),
        ({"dataset": "accounts\n"}, "dataset", "a name"),
        ({"programs": {"sql": 1}}, "programs.sql", "true or false"),
        ({"programs": {"approved": ["sha256:" + "A" * 64]}}, "programs.approved[0]", "digest"),
    ],
)
def test_document_that_is_nearly_right_is_refused(
    policy: DataUsePolicy, change: dict[str, Any], key: str, expected: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        read_policy(policy_document(policy) | change)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert expected in problem.expected


def test_unit_that_cannot_be_read_cannot_be_counted(make_policy: Make) -> None:
    for columns in ({"withhold": ["SSN"]}, {"allow": ["age"]}):
        with pytest.raises(DocumentError, match=r"minimum_group\.unit"):
            make_policy(unit="ssn", **columns)


def test_one_party_under_two_names_stands_on_a_list_once(policy: DataUsePolicy, analyst: SigningKey) -> None:
    twin = PartyId(name="bob", fingerprint=analyst.party.fingerprint)
    with pytest.raises(DocumentError, match="twice"):
        read_policy(policy_document(policy) | {"analysts": [str(analyst.party), str(twin)]})


def test_text_that_is_not_toml_names_its_line() -> None:
    with pytest.raises(DocumentError, match="line 2"):
        parse_policy_toml('dataset = "accounts"\nversion = = 1\n')


def test_document_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(DocumentError, match="at most 1048576"):
        parse_policy_toml("#" * (1 << 20) + "\n")


def test_document_of_brackets_only_is_refused() -> None:
    with pytest.raises(PolicyError):
        parse_policy_toml("a = " + "[" * 50_000)


def test_policy_does_not_change_after_it_was_read(policy: DataUsePolicy) -> None:
    with pytest.raises(AttributeError):
        policy.dataset = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.tee.measurements["worker"] = ()  # type: ignore[index]
    assert replace(policy, version=2) != policy
