"""Mint and verify EAT attestation results, for third parties that cannot appraise evidence (spec/4-release.md §3.11).

Sources: draft-ietf-rats-ear-04, draft-ietf-rats-ar4si-09, RFC 9711 (EAT), RFC 7800 (cnf). A token names the nonce and
the key it is for, and lives five minutes at most. Strongroom's own rooms appraise evidence and take no tokens.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from strongroom.attestation.appraisal import AttestationResult
from strongroom.attestation.tiers import TrustTier
from strongroom.errors import EvidenceError, UsageError

ALGORITHM = "ES256"
PROFILE = "tag:ietf.org,2026:rats/ear#04"
MAX_LIFETIME = timedelta(minutes=5)
SUBMODULE = "workload"
POLICY = "urn:strongroom:appraisal:v1"
NONCE_BYTES = 32
_SKEW = timedelta(seconds=30)
_MAX_TOKEN = 64 << 10

# AR4SI trustworthiness claims (draft-ietf-rats-ar4si §2.3.4).
_AFFIRMED: Final = 2
_HARDWARE_UNSAFE: Final = 32  # genuine, with known vulnerabilities
_UNRECOGNISED: Final = 97  # no genuine hardware, and no identity that it vouches for
_RUNTIME_VISIBLE: Final = 96
_EXECUTABLES_UNRECOGNISED: Final = 33


class EarError(EvidenceError):
    """An attestation result token is malformed, expired, for another nonce, or not by the expected verifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarClaims:
    """What a verified token says; ``confirmation`` is the JWK the bearer must prove possession of."""

    tier: TrustTier
    simulated: bool
    tee: str
    measurement: str
    tcb_status: str
    advisories: tuple[str, ...]
    vector: Mapping[str, int]
    confirmation: Mapping[str, Any]
    issued: datetime
    expires: datetime


def mint_ear(
    result: AttestationResult,
    *,
    key: ECKey,
    nonce: bytes,
    confirmation: Mapping[str, Any],
    reference_value: bool,
    now: datetime,
    lifetime: timedelta = MAX_LIFETIME,
) -> str:
    """Return ``result`` as a signed EAR in compact JWT form.

    ``nonce``: the 32 bytes of the party the token is for. ``confirmation``: the attested public key as a JWK.
    ``reference_value``: whether the measurement was found among reference values, which only the caller knows.
    Raise UsageError for a lifetime beyond five minutes, a private key as confirmation, or another nonce length.
    """
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise UsageError(f"a token lives at most {MAX_LIFETIME}, got {lifetime}")
    if len(nonce) != NONCE_BYTES:
        raise UsageError(f"a nonce has {NONCE_BYTES} bytes, got {len(nonce)}")
    if not confirmation.get("kty") or {"d", "k"} & set(confirmation):
        raise UsageError("the confirmation key is not a public JWK")
    vector = trustworthiness_vector(result, reference_value=reference_value)
    claims = {
        "eat_profile": PROFILE,
        "iat": int(now.timestamp()),
        "exp": int((now + lifetime).timestamp()),
        "eat_nonce": base64.urlsafe_b64encode(nonce).rstrip(b"=").decode(),
        "cnf": {"jwk": dict(confirmation)},
        "ear_verifier_id": {"developer": "Strongroom", "build": f"strongroom {version('strongroom')}"},
        "submods": {
            SUBMODULE: {
                "ear_status": _worst(vector).value,
                "ear_trustworthiness_vector": vector,
                "ear_appraisal_policy_ids": [POLICY],
                "ear_attester_claims": {"tee": result.tee, "measurement": result.measurement},
                "ear_verifier_claims": {
                    "simulated": result.simulated,
                    "tcb_status": result.tcb_status,
                    "advisories": list(result.advisories),
                    "collateral": result.collateral_digest,
                },
            }
        },
    }
    token: str = jwt.encode({"alg": ALGORITHM, "typ": "eat+jwt"}, claims, key, algorithms=[ALGORITHM])
    return token


def verify_ear(token: str, *, key: ECKey, nonce: bytes, now: datetime) -> EarClaims:
    """Return the claims of ``token`` if ``key`` signed it for ``nonce`` and ``now`` is in its life; raise EarError."""
    if len(token) > _MAX_TOKEN:
        raise EarError(f"a token has at most {_MAX_TOKEN} characters, got {len(token)}")
    try:
        decoded = jwt.decode(token, key, algorithms=[ALGORITHM])
        claims, header = decoded.claims, decoded.header
        submodule = claims["submods"][SUBMODULE]
        said, found = submodule["ear_attester_claims"], submodule["ear_verifier_claims"]
        ear = EarClaims(
            tier=TrustTier(submodule["ear_status"]),
            simulated=_boolean(found["simulated"]),
            tee=str(said["tee"]),
            measurement=str(said["measurement"]),
            tcb_status=str(found["tcb_status"]),
            advisories=tuple(str(one) for one in found["advisories"]),
            vector={str(name): int(value) for name, value in submodule["ear_trustworthiness_vector"].items()},
            confirmation=dict(claims["cnf"]["jwk"]),
            issued=datetime.fromtimestamp(int(claims["iat"]), UTC),
            expires=datetime.fromtimestamp(int(claims["exp"]), UTC),
        )
        got_nonce, profile = claims["eat_nonce"], claims["eat_profile"]
    except (
        JoseError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        OSError,
        RecursionError,
    ) as error:
        raise EarError(
            "not an attestation result that this verifier signed", hint="ask the verifier for a new one"
        ) from error
    expected = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
    if header.get("typ") != "eat+jwt" or profile != PROFILE:
        raise EarError(f"the token is a {header.get('typ')!r} of profile {profile!r}, expected an EAR")
    if got_nonce != expected:
        raise EarError("the token answers another nonce", hint="tokens are for one exchange; ask for a new one")
    if ear.expires - ear.issued > MAX_LIFETIME or not ear.issued - _SKEW <= now < ear.expires:
        raise EarError(
            f"the token is valid from {ear.issued:%FT%TZ} to {ear.expires:%FT%TZ}, not at {now:%FT%TZ}",
            hint="ask the verifier for a new one, or check the clock",
        )
    if ear.tier is not _worst(ear.vector) or (ear.simulated and ear.tier is not TrustTier.CONTRAINDICATED):
        raise EarError(f"the token calls itself {ear.tier.value}, which its own claims contradict")
    return ear


def trustworthiness_vector(result: AttestationResult, *, reference_value: bool) -> dict[str, int]:
    """Return the AR4SI claims that ``result`` supports; those that evidence says nothing of are left out."""
    hardware = {TrustTier.AFFIRMING: _AFFIRMED, TrustTier.WARNING: _HARDWARE_UNSAFE}.get(result.tier, _UNRECOGNISED)
    return {
        "instance-identity": _UNRECOGNISED if result.simulated else _AFFIRMED,
        "hardware": hardware,
        "executables": _AFFIRMED if reference_value else _EXECUTABLES_UNRECOGNISED,
        "runtime-opaque": _RUNTIME_VISIBLE if result.simulated else _AFFIRMED,
    }


_ORDER = (TrustTier.NONE, TrustTier.AFFIRMING, TrustTier.WARNING, TrustTier.CONTRAINDICATED)


def _worst(vector: Mapping[str, int]) -> TrustTier:
    """Return the tier of the worst claim, which is the tier of the whole (draft-ietf-rats-ear §3.2)."""
    return max((TrustTier.of_claim(value) for value in vector.values()), key=_ORDER.index, default=TrustTier.NONE)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value
