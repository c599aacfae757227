"""Any policy survives writing, signing and rendering; anything else is a StrongroomError and never a surprise."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.errors import StrongroomError
from strongroom.policy import (
    DocumentError,
    FusedPolicy,
    fuse,
    parse_policy_toml,
    policy_digest,
    policy_document,
    read_policy,
    render_policy,
    sign_policy,
    verify_policy,
)
from strongroom.statements import SigningKey, Statement

OWNER = SigningKey.from_seed(b"o" * 32, name="bank")

_printable = st.characters(exclude_categories=("C", "Z"))
words = st.text(_printable, min_size=1, max_size=12)
names = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)
parties = st.builds("{}:{:032x}".format, names.map(lambda name: name.replace("_", "-")), st.integers(0, 2**128 - 1))
whens = st.datetimes(datetime(2001, 1, 1), datetime(9000, 1, 1)).map(  # noqa: DTZ001  the zone is added below
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
)


def _lists(items: st.SearchStrategy[str], most: int = 4) -> st.SearchStrategy[list[str]]:
    return st.lists(items, max_size=most, unique_by=lambda text: text.rpartition(":")[2])


serving = st.fixed_dictionaries(
    {
        "callers": _lists(parties),
        "quotas": st.lists(
            st.fixed_dictionaries({"answers": st.integers(1, 10**9), "seconds": st.integers(1, 86_400)}),
            min_size=1,
            max_size=3,
        ),
        "answers": st.fixed_dictionaries(
            {
                "kinds": _lists(st.sampled_from(["labels", "scores", "text"])),
                "digits": st.integers(1, 15),
                "tokens": st.integers(1, 1_000_000),
            },
            optional={"top": st.integers(1, 100)},
        ),
    }
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a policy document that is valid."""
    withhold = draw(_lists(words.filter(lambda text: text != "*")))
    outputs: dict[str, Any] = {
        "recipients": draw(_lists(parties)),
        "minimum_group": {"size": draw(st.integers(1, 100))},
    }
    if draw(st.booleans()):
        of = draw(_lists(parties).filter(bool))
        outputs["approvals"] = {"needed": draw(st.integers(1, len(of))), "of": of}
    if draw(st.booleans()):
        outputs["max_rows"] = draw(st.integers(1, 10**9))
    if draw(st.booleans()):
        outputs["files"] = {"recipients": draw(_lists(parties)), "max_bytes": draw(st.integers(1, 1 << 40))}
        if draw(st.booleans()):
            outputs["files"]["owner"] = draw(parties)
    document: dict[str, Any] = {
        "dataset": draw(names),
        "version": draw(st.integers(1, 10**9)),
        "owner": str(OWNER.party),
        "purposes": draw(_lists(words)),
        "analysts": draw(_lists(parties)),
        "expires": draw(whens),
        "lease": draw(st.integers(1, 86_400)),
        "programs": {"approved": [], "sql": draw(st.booleans())},
        "columns": {"allow": draw(st.just(["*"]) | _lists(words)), "withhold": withhold},
        "tee": {
            "allow_simulated": draw(st.booleans()),
            "tiers": draw(_lists(st.sampled_from(["affirming", "warning"]))),
            "tcb": ["UpToDate"],
            "advisories_accepted": [],
            "measurements": {"driver": [], "worker": ["sgx:" + "a" * 64], "egress": []},
        },
        "outputs": outputs,
    }
    if draw(st.booleans()):
        document["serving"] = draw(serving)
        document["tee"]["measurements"]["endpoint"] = ["tdx:" + "b" * 96]
    if draw(st.booleans()):
        document["max_uses"] = draw(st.integers(1, 10**9))
    return document


@settings(max_examples=60, deadline=None)
@given(policies())
def test_policy_survives_reading_rendering_and_signing(document: dict[str, Any]) -> None:
    policy = read_policy(document)
    assert policy_document(policy) == document
    assert parse_policy_toml(render_policy(policy)) == policy
    again = verify_policy(Statement.decode(sign_policy(policy, OWNER).encode()))
    assert policy_digest(again) == policy_digest(policy)
    fused = fuse([policy])
    assert FusedPolicy.decode(fused.encode()) == fused


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(policies(), st.data())
def test_policy_with_one_value_exchanged_is_read_or_refused_as_a_person_can_understand(
    document: dict[str, Any], data: st.DataObject
) -> None:
    here = document
    key = data.draw(st.sampled_from(sorted(here)))
    while isinstance(here[key], dict) and data.draw(st.booleans()):
        here = here[key]
        key = data.draw(st.sampled_from(sorted(here)))
    here[key] = data.draw(json_values)
    try:
        policy = read_policy(document)
    except StrongroomError as error:
        helpful = bool(error.hint) and "expected" in error.message
    else:
        helpful = parse_policy_toml(render_policy(policy)) == policy
    assert helpful


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_policy_toml(text)
    assert caught.value.problems


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_fused_policy(data: bytes) -> None:
    with pytest.raises(StrongroomError):
        FusedPolicy.decode(data)
