"""A token of Intel Trust Authority or Azure Attestation is believed only under pinned keys, for this very session."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jwt
from joserfc.jwk import RSAKey

from strongroom.attestation.evidence.quote import tdx_measurement
from strongroom.attestation.tokens import TokenError, TokenService, verify_token
from strongroom.cli.journey import run
from strongroom.errors import UsageError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = bytes(range(64))
KEY, OTHER = RSAKey.generate_key(2048), RSAKey.generate_key(2048)
JWKS = json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "one"}, {"kid": "ec", "kty": "EC"}]})
ITA = TokenService(kind="ita", issuer="Intel Trust Authority", keys=JWKS)
MAA = TokenService(kind="maa", issuer="https://shared.attest.azure.net", keys=JWKS)
TDX = {f"tdx_rtmr{number}": bytes([number]).hex() * 48 for number in range(4)} | {
    "tdx_mrtd": "dd" * 48,
    "tdx_report_data": ASKED.hex(),
}
BODY = {
    "ita": {"attester_type": "TDX", "tdx_is_debuggable": False, "attester_tcb_status": "UpToDate", **TDX},
    "maa": {"x-ms-attestation-type": "tdxvm", "tdx_td_attributes_debug": False, "attester_tcb_status": "UpToDate"},
}
BODY["maa"] |= TDX


def named(value: object) -> str:
    """Name a case the same in every process: what is random stays out of it."""
    return ", ".join(map(str, value)) if isinstance(value, dict) else str(value)[:40]


def token(service: TokenService, *, key=KEY, kid="one", alg=None, header=None, **changes: object) -> str:
    claims = {
        "iss": service.issuer,
        "iat": int(NOW.timestamp()),
        "nbf": int(NOW.timestamp()),
        "exp": int((NOW + timedelta(minutes=5)).timestamp()),
        **BODY[service.kind],
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    algorithm = alg or ("PS384" if service.kind == "ita" else "RS256")
    return jwt.encode({"alg": algorithm, "kid": kid, **(header or {})}, claims, key, algorithms=[algorithm])


def check(text: str, service: TokenService, *, now: datetime = NOW, asked: bytes = ASKED):
    return verify_token(text, service=service, report_data=asked, now=now)


@pytest.mark.parametrize("service", [ITA, MAA], ids=["ita", "maa"])
def test_a_sound_token_says_what_our_policies_name(service: TokenService) -> None:
    result = check(token(service), service)
    rtmrs = tuple(bytes([number]) * 48 for number in range(4))
    assert result.measurement == tdx_measurement(b"\xdd" * 48, rtmrs)
    assert (result.tee, result.tcb_status, result.report_data) == ("tdx", "UpToDate", ASKED)
    assert result.to_json()["issuer"] == service.issuer


def test_tokens_about_enclaves_and_guests_are_read_too() -> None:
    sgx = {"x-ms-attestation-type": "sgx", "x-ms-sgx-is-debuggable": False, "x-ms-sgx-mrenclave": "ee" * 32}
    assert check(token(MAA, **sgx, **{"x-ms-sgx-report-data": ASKED.hex()}), MAA).measurement == "sgx:" + "ee" * 32
    snp = {
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-sevsnpvm-is-debuggable": False,
        "x-ms-sevsnpvm-launchmeasurement": "aa" * 48,
        "x-ms-sevsnpvm-reportdata": ASKED.hex(),
    }
    assert check(token(MAA, **snp), MAA).measurement == "snp:" + "aa" * 48
    nested = {
        "attester_type": None,
        "attester_tcb_status": None,
        "tdx_mrtd": None,
        "sgx": {
            "sgx_mrenclave": "ee" * 32,
            "sgx_report_data": ASKED.hex(),
            "sgx_is_debuggable": False,
            "attester_tcb_status": "OutOfDate",
            "attester_advisory_ids": ["INTEL-SA-1"],
        },
    }
    result = check(token(ITA, **nested), ITA)
    assert (result.tee, result.tcb_status, result.advisories) == ("sgx", "OutOfDate", ("INTEL-SA-1",))


@pytest.mark.parametrize("service", [ITA, MAA], ids=["ita", "maa"])
@pytest.mark.parametrize(
    "changes",
    [
        {"key": OTHER},
        {"kid": "two"},
        {"alg": "RS512"},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": int(NOW.timestamp())},
        {"exp": int(NOW.timestamp()) + 10**6},
        {"exp": "soon"},
        {"exp": None},
        {"iat": int(NOW.timestamp()) + 3600, "exp": int(NOW.timestamp()) + 7200},
        {"nbf": int(NOW.timestamp()) + 3600},
        {"tdx_report_data": bytes(64).hex()},
        {"tdx_report_data": ASKED.hex()[:-2]},
        {"tdx_report_data": None},
        {"tdx_mrtd": "zz"},
        {"tdx_rtmr3": None},
        {"tdx_is_debuggable": True, "tdx_td_attributes_debug": True},
        {"tdx_is_debuggable": None, "tdx_td_attributes_debug": None},
        {"tdx_is_debuggable": 0, "tdx_td_attributes_debug": 0},
        {"attester_type": "nothing", "x-ms-attestation-type": "azurevm", "tdx_mrtd": None},
    ],
    ids=named,
)  # fmt: skip
def test_a_token_with_one_thing_wrong_is_refused(service: TokenService, changes: dict) -> None:
    if service is ITA and changes.get("alg") == "RS256":
        return
    with pytest.raises(TokenError):
        check(token(service, **changes), service)


def sign_by_hand(header: dict, sign) -> str:
    body = json.dumps(jwt.decode(token(MAA), KEY, algorithms=["RS256"]).claims)
    text = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in (json.dumps(header), body))
    return f"{text}.{base64.urlsafe_b64encode(sign(text.encode())).decode().rstrip('=')}"


def test_a_token_signed_with_the_public_key_as_a_password_or_not_at_all_is_refused() -> None:
    def rsa(text: bytes) -> bytes:
        return KEY.private_key.sign(text, padding.PKCS1v15(), hashes.SHA256())

    def password(text: bytes) -> bytes:
        return hmac.digest(KEY.as_pem(private=False), text, "sha256")

    assert check(sign_by_hand({"alg": "RS256", "kid": "one"}, rsa), MAA).tee == "tdx"
    for text in (
        sign_by_hand({"alg": "HS256", "kid": "one"}, password),
        sign_by_hand({"alg": "none", "kid": "one"}, lambda _: b""),
        sign_by_hand({"alg": "RS256", "kid": "one", "crit": ["exp"], "exp": 1}, rsa),
        *("", "a.b.c", "x" * 100_000, token(MAA)[:-4], token(MAA) + "."),
    ):
        with pytest.raises(TokenError):
            check(text, MAA)


def test_a_key_that_the_token_brings_along_is_not_followed() -> None:
    header = {"jku": "https://evil.example/keys"}
    with pytest.raises(TokenError):
        check(token(MAA, key=OTHER, header=header), MAA)


def test_azures_keys_are_taken_from_their_certificates() -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "maa")])
    private = KEY.private_key
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(private, hashes.SHA256())
    )
    chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
    service = TokenService(
        kind="maa", issuer=MAA.issuer, keys=json.dumps({"keys": [{"kid": "one", "kty": "RSA", "x5c": chain}]})
    )
    assert check(token(MAA), service).tee == "tdx"


SMALL = '{"keys": [{"kty": "RSA", "kid": "a", "n": "AQ", "e": "AQ"}]}'


@pytest.mark.parametrize("keys", ["", "[]", "{}", '{"keys": [{"kty": "RSA"}]}', SMALL])
def test_nonsense_instead_of_pinned_keys_is_the_relying_partys_mistake(keys: str) -> None:
    with pytest.raises((UsageError, TokenError)):
        check(token(MAA), TokenService(kind="maa", issuer=MAA.issuer, keys=keys))
    with pytest.raises(UsageError):
        check(token(MAA), MAA, asked=b"short")
    with pytest.raises(UsageError):
        TokenService(kind="other", issuer="x", keys=keys)


def test_the_verb_says_what_a_token_says_and_refuses_one_for_another_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(token(MAA) + "\n")
    (tmp_path / "keys").write_text(JWKS)
    words = ["attest", "token", str(tmp_path / "token"), "--service", "maa", "--issuer", MAA.issuer, "--json"]
    words += ["--keys", str(tmp_path / "keys"), "--at", str(NOW.timestamp()), "--report-data"]
    assert run([*words, ASKED.hex()]) == 0
    assert json.loads(capsys.readouterr().out)["tee"] == "tdx"
    assert run([*words, bytes(64).hex()]) == 4
    assert run([*words, "00"]) == 2
