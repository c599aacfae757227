"""Say who a member is: its party id, signing key and the key that secrets are sealed to (spec/4-release.md §5.1).

The statement is signed by the key that it names, so it proves possession and nothing more: what a member may do is said
by owners' policies alone.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime

from strongroom.digests import same
from strongroom.statements import PartyId, SigningKey, Statement, StatementError, VerifyKey, sign

KIND = "identity"
VERSION = 1
ROLES = ("owner", "analyst", "auditor")
MAX_KEM_BYTES = 4096
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A member as it describes itself; ``kem_public`` is where keys and results for it are sealed to."""

    party: PartyId
    role: str
    signing_key: VerifyKey
    kem_public: bytes
    created: datetime


def sign_identity(key: SigningKey, *, role: str, kem_public: bytes, created: datetime) -> Statement:
    """Return the identity of ``key``'s party as a statement signed by itself."""
    if role not in ROLES:
        raise StatementError(f"unknown role {role!r}", hint=f"a member is one of {', '.join(ROLES)}")
    return sign(
        {
            "party": str(key.party),
            "role": role,
            "signing_key": base64.b64encode(key.public.raw).decode(),
            "kem_public": base64.b64encode(kem_public).decode(),
            "created": created.astimezone(UTC).strftime(_TIME),
        },
        kind=KIND,
        version=VERSION,
        key=key,
    )


def verify_identity(statement: Statement) -> Identity:
    """Return the identity in ``statement`` if the key that it names signed it, else raise StatementError."""
    payload = statement.open(kind=KIND, version=VERSION, signer=None)
    try:
        if set(payload) != {"party", "role", "signing_key", "kem_public", "created"} or payload["role"] not in ROLES:
            raise StatementError("an identity has party, role, signing_key, kem_public and created")
        party = PartyId.parse(payload["party"])
        raw = base64.b64decode(payload["signing_key"], validate=True)
        kem_public = base64.b64decode(payload["kem_public"], validate=True)
        created = datetime.strptime(payload["created"], _TIME).replace(tzinfo=UTC)
    except (ValueError, TypeError, binascii.Error) as error:
        raise StatementError("not an identity: a field has the wrong form") from error
    key = VerifyKey(raw)
    if not same(raw, statement.signer) or key.fingerprint != party.fingerprint:
        raise StatementError(
            f"the identity of {party} was signed by {statement.party_fingerprint}",
            hint="an identity is signed by the key that it names",
        )
    if not 0 < len(kem_public) <= MAX_KEM_BYTES:
        raise StatementError(f"a KEM public key has 1 to {MAX_KEM_BYTES} bytes, got {len(kem_public)}")
    return Identity(party=party, role=payload["role"], signing_key=key, kem_public=kem_public, created=created)
