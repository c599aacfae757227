"""Somebody who is not the owner writes a policy for the owner's dataset, and signs it with a key of its own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from strongroom.policy import (
    PolicyOwnerError,
    parse_policy_toml,
    policy_document,
    policy_template,
    sign_policy,
    verify_policy,
)
from strongroom.statements import PartyId, SigningKey, StatementError, sign

OWNER, THIEF = SigningKey.generate(name="bank"), SigningKey.generate(name="bank")
POLICY = parse_policy_toml(
    policy_template(
        dataset="accounts",
        owner=OWNER.party,
        analysts=[THIEF.party],
        purposes=["theft"],
        expires=datetime(2030, 1, 1, tzinfo=UTC),
    )
)


def test_policy_naming_the_owner_but_signed_by_the_thief_is_refused() -> None:
    forged = sign(policy_document(POLICY), kind="policy", version=1, key=THIEF)
    with pytest.raises(PolicyOwnerError, match="is signed by key"):
        verify_policy(forged)


def test_owners_signature_on_another_payload_is_refused() -> None:
    genuine = sign_policy(POLICY, OWNER)
    wider = sign(policy_document(replace(POLICY, version=2)), kind="policy", version=1, key=THIEF)
    with pytest.raises(StatementError, match="signature"):
        verify_policy(replace(genuine, payload=wider.payload))


def test_thiefs_signature_under_the_owners_key_is_refused() -> None:
    forged = sign(policy_document(POLICY), kind="policy", version=1, key=THIEF)
    with pytest.raises(StatementError, match="signature"):
        verify_policy(replace(forged, signer=OWNER.public.raw))


def test_owners_name_with_the_thiefs_fingerprint_names_the_thief() -> None:
    impostor = replace(POLICY, owner=PartyId(name="bank", fingerprint=THIEF.party.fingerprint))
    assert verify_policy(sign_policy(impostor, THIEF)).owner != OWNER.party
