"""An owner is talked into signing a payload that says one thing to people and another to software."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from strongroom.errors import PolicyError
from strongroom.policy import parse_policy_toml, policy_document, policy_template, verify_policy
from strongroom.statements import SigningKey, Statement, StatementError, sign

OWNER = SigningKey.generate(name="bank")
DOCUMENT = policy_document(
    parse_policy_toml(
        policy_template(
            dataset="accounts",
            owner=OWNER.party,
            analysts=[],
            purposes=[],
            expires=datetime(2030, 1, 1, tzinfo=UTC),
        )
    )
)


@pytest.mark.parametrize(
    "change",
    [
        {"Columns": {"allow": ["*"], "withhold": []}},
        {"comment": "nothing is permitted"},
        {"tee": {**DOCUMENT["tee"], "allow_simulation": True}},
        {"programs": {**DOCUMENT["programs"], "source": "[programs]\nsql = false"}},
        {"outputs": {**DOCUMENT["outputs"], "approvals": None}},
        {"not_before": None},
        {"lease": True},
        {"version": "1"},
    ],
)
def test_payload_with_anything_that_the_form_does_not_have_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        verify_policy(sign(DOCUMENT | change, kind="policy", version=1, key=OWNER))


def test_payload_with_a_key_given_twice_is_refused() -> None:
    twice = sign(DOCUMENT, kind="policy", version=1, key=OWNER).payload.replace(
        b'"version":1', b'"version":1,"version":2'
    )
    kind = b"application/vnd.strongroom.policy+json; version=1"
    framed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(twice), twice)
    forged = Statement(kind="policy", version=1, payload=twice, signer=OWNER.public.raw, signature=OWNER.sign(framed))
    with pytest.raises(StatementError, match="canonical"):
        verify_policy(forged)
