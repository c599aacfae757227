"""Attestation results travel as EAR tokens that any JWT library can verify."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from joserfc import jwt
from joserfc.jwk import ECKey

from strongroom.attestation.appraisal import AttestationResult, CollateralMemory, TrustAnchor, Verifier
from strongroom.attestation.ear import PROFILE, EarError, mint_ear, verify_ear
from strongroom.attestation.evidence import Evidence
from strongroom.attestation.simulated.pki import Vendor
from strongroom.attestation.simulated.quoting import SgxFacts, quote_sgx
from strongroom.attestation.tiers import TrustTier
from strongroom.errors import UsageError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
VENDOR = Vendor(b"t" * 32)
KEY = ECKey.generate_key("P-256")
WORKLOAD = ECKey.generate_key("P-256").as_dict(private=False)
NONCE = b"n" * 32


class Served:
    def collateral(self, quote: bytes) -> str:
        return VENDOR.collateral("sgx", now=NOW)


@pytest.fixture(scope="module")
def simulated() -> AttestationResult:
    anchor = TrustAnchor(root_der=VENDOR.root_der, simulated=True)
    quote = quote_sgx(VENDOR, SgxFacts(mr_enclave=b"E" * 32, mr_signer=b"S" * 32), report_data=bytes(64))
    verifier = Verifier(anchor, Served(), memory=CollateralMemory())
    return verifier.appraise(Evidence(tee="sgx", quote=quote), report_data=bytes(64), now=NOW)


def as_hardware(result: AttestationResult, tier: TrustTier) -> AttestationResult:
    """Return the result as hardware would have given it."""
    fields = {name: getattr(result, name) for name in AttestationResult.__slots__}
    return AttestationResult(**{**fields, "simulated": False, "tier": tier})


def mint(result: AttestationResult, **changes: object) -> str:
    arguments = {"key": KEY, "nonce": NONCE, "confirmation": WORKLOAD, "reference_value": True, "now": NOW, **changes}
    return mint_ear(result, **arguments)


def decode(part: str) -> dict:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_a_token_says_what_the_result_says(simulated: AttestationResult) -> None:
    ear = verify_ear(mint(simulated), key=KEY, nonce=NONCE, now=NOW)
    assert (ear.tier, ear.simulated, ear.tee) == (TrustTier.CONTRAINDICATED, True, "sgx")
    assert (ear.measurement, ear.tcb_status) == (simulated.measurement, "UpToDate")
    assert ear.vector["hardware"] == 97
    assert ear.confirmation == WORKLOAD
    assert ear.expires - ear.issued == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("tier", "known", "expected"),
    [
        (TrustTier.AFFIRMING, True, TrustTier.AFFIRMING),
        (TrustTier.WARNING, True, TrustTier.WARNING),
        (TrustTier.AFFIRMING, False, TrustTier.WARNING),
    ],
)
def test_the_tier_is_that_of_the_worst_claim(
    simulated: AttestationResult, tier: TrustTier, known: bool, expected: TrustTier
) -> None:
    token = mint(as_hardware(simulated, tier), reference_value=known)
    assert verify_ear(token, key=KEY, nonce=NONCE, now=NOW).tier is expected


def test_the_claims_are_those_of_the_ear_draft(simulated: AttestationResult) -> None:
    header, claims, _ = mint(simulated).split(".")
    assert decode(header) == {"alg": "ES256", "typ": "eat+jwt"}
    body = decode(claims)
    assert body["eat_profile"] == PROFILE
    assert set(body["ear_verifier_id"]) == {"developer", "build"}
    assert base64.urlsafe_b64decode(body["eat_nonce"] + "=") == NONCE
    (submodule,) = body["submods"].values()
    assert submodule["ear_status"] == "contraindicated"
    assert set(submodule["ear_trustworthiness_vector"]) <= {
        "instance-identity",
        "configuration",
        "executables",
        "file-system",
        "hardware",
        "runtime-opaque",
        "storage-opaque",
        "sourced-data",
    }


def test_any_jwt_library_verifies_the_signature(simulated: AttestationResult) -> None:
    token = mint(simulated)
    assert jwt.decode(token, KEY, algorithms=["ES256"]).claims["iat"] == int(NOW.timestamp())
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    public = KEY.public_key
    assert isinstance(public, ec.EllipticCurvePublicKey)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, signed.encode(), ec.ECDSA(hashes.SHA256()))


def test_a_token_is_good_for_one_nonce_one_verifier_and_five_minutes(simulated: AttestationResult) -> None:
    token = mint(simulated)
    with pytest.raises(EarError, match="another nonce"):
        verify_ear(token, key=KEY, nonce=b"m" * 32, now=NOW)
    with pytest.raises(EarError, match="signed"):
        verify_ear(token, key=ECKey.generate_key("P-256"), nonce=NONCE, now=NOW)
    for later in (timedelta(minutes=5), timedelta(days=1), -timedelta(minutes=2)):
        with pytest.raises(EarError, match="valid from"):
            verify_ear(token, key=KEY, nonce=NONCE, now=NOW + later)


def forge(claims: dict, **changes: object) -> str:
    return jwt.encode({"alg": "ES256", "typ": "eat+jwt"}, {**claims, **changes}, KEY)


def test_a_signed_token_that_contradicts_itself_is_refused(simulated: AttestationResult) -> None:
    claims = decode(mint(simulated).split(".")[1])
    affirming = json.loads(json.dumps(claims))
    affirming["submods"]["workload"]["ear_status"] = "affirming"
    long = {**claims, "exp": claims["iat"] + 3600}
    quiet = json.loads(json.dumps(claims))
    quiet["submods"]["workload"]["ear_verifier_claims"]["simulated"] = "no"
    other = {**claims, "eat_profile": "tag:example"}
    for body in (affirming, long, quiet, other, {**claims, "submods": {}}, {**claims, "exp": "soon"}):
        with pytest.raises(EarError):
            verify_ear(forge(body), key=KEY, nonce=NONCE, now=NOW)


@pytest.mark.parametrize("token", ["", "a.b.c", "x" * 100_000, "eyJhbGciOiJub25lIn0.e30."])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(EarError):
        verify_ear(token, key=KEY, nonce=NONCE, now=NOW)


def test_an_unsigned_token_is_refused(simulated: AttestationResult) -> None:
    _, claims, _ = mint(simulated).split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"eat+jwt"}').rstrip(b"=").decode()
    with pytest.raises(EarError):
        verify_ear(f"{none}.{claims}.", key=KEY, nonce=NONCE, now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"lifetime": timedelta(minutes=6)},
        {"lifetime": timedelta(0)},
        {"nonce": b"short"},
        {"confirmation": {}},
        {"confirmation": ECKey.generate_key("P-256").as_dict(private=True)},
    ],
    ids=["long", "none", "nonce", "no key", "private key"],
)
def test_a_careless_token_is_not_minted(simulated: AttestationResult, change: dict) -> None:
    with pytest.raises(UsageError):
        mint(simulated, **change)
