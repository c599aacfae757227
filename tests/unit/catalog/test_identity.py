"""An identity proves possession of the key that it names, and nothing else passes for one."""

import base64
from datetime import UTC, datetime

import pytest

from strongroom.catalog.identity import sign_identity, verify_identity
from strongroom.envelope.hpke import KemKey
from strongroom.statements import SigningKey, StatementError, sign

NOW = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def key():
    return SigningKey.generate(name="airline")


@pytest.fixture
def payload(key):
    return {
        "party": str(key.party),
        "role": "owner",
        "signing_key": base64.b64encode(key.public.raw).decode(),
        "kem_public": base64.b64encode(b"kem").decode(),
        "created": "2027-01-01T00:00:00Z",
    }


def resigned(payload, key, **changes):
    return sign(payload | changes, kind="identity", version=1, key=key)


def test_identity_reads_back_as_signed(key):
    kem = KemKey.generate().public
    identity = verify_identity(sign_identity(key, role="owner", kem_public=kem, created=NOW))
    assert (identity.party, identity.role, identity.kem_public, identity.created) == (key.party, "owner", kem, NOW)
    assert identity.signing_key.raw == key.public.raw


def test_nobody_can_sign_anothers_identity(key, payload):
    mallory = SigningKey.generate(name="airline")
    with pytest.raises(StatementError, match="was signed by"):
        verify_identity(resigned(payload, mallory))
    theirs = base64.b64encode(mallory.public.raw).decode()
    with pytest.raises(StatementError, match="was signed by"):
        verify_identity(resigned(payload, mallory, signing_key=theirs))


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "admin"},
        {"kem_public": ""},
        {"kem_public": "not base64!"},
        {"kem_public": base64.b64encode(bytes(5000)).decode()},
        {"signing_key": "AAAA"},
        {"created": "yesterday"},
        {"party": "airline"},
        {"party": 7},
        {"more": 1},
    ],
)
def test_malformed_identity_is_refused(key, payload, changes):
    with pytest.raises(StatementError):
        verify_identity(resigned(payload, key, **changes))


def test_statement_of_another_kind_is_no_identity(key, payload):
    with pytest.raises(StatementError, match="expected a identity statement"):
        verify_identity(sign(payload, kind="policy", version=1, key=key))


def test_unknown_role_is_not_signed(key):
    with pytest.raises(StatementError, match="unknown role"):
        sign_identity(key, role="admin", kem_public=b"kem", created=NOW)
