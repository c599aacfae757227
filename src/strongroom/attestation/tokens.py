"""Verify attestation tokens of services: Intel Trust Authority and Microsoft Azure Attestation (spec §3.16).

A token is somebody else's attestation result: whoever accepts one trusts that service to have appraised well. The keys
are those the relying party pinned; a token's own `jku` or `x5c` is never followed. No role of Strongroom takes a token.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from strongroom.attestation.evidence.quote import sgx_measurement, tdx_measurement
from strongroom.attestation.evidence.snp import snp_measurement
from strongroom.digests import same
from strongroom.errors import EvidenceError, UsageError

ServiceKind = Literal["ita", "maa"]
ALGORITHMS: Final[dict[str, tuple[str, ...]]] = {"ita": ("PS384", "RS256"), "maa": ("RS256",)}
MAX_TOKEN: Final = 64 << 10
MAX_AGE: Final = timedelta(hours=8)
_SKEW: Final = timedelta(seconds=60)
_REPORT_DATA: Final = 64
_LEAST_KEY_BITS: Final = 2048
_ITA_NESTED: Final = ("tdx", "sgx", "sevsnp")


class TokenError(EvidenceError):
    """A token is malformed, expired, for somebody else, about a debug workload, or not by the service expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenService:
    """A service that a relying party decided to trust: ``issuer`` exactly as in its tokens, and its pinned keys.

    ``keys`` is the service's JWKS document, fetched once over a channel the relying party trusts.
    """

    kind: ServiceKind
    issuer: str
    keys: str

    def __post_init__(self) -> None:
        if self.kind not in ALGORITHMS:
            raise UsageError(f"a token service is ita or maa, got {self.kind!r}")
        if not self.issuer:
            raise UsageError("name the issuer exactly as the service's tokens do")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResult:
    """What a verified token says; ``measurement`` in Strongroom's words, ``tcb_status`` in the service's."""

    service: ServiceKind
    issuer: str
    tee: str
    measurement: str
    report_data: bytes
    tcb_status: str
    advisories: tuple[str, ...]
    issued: datetime
    expires: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "service": self.service,
            "issuer": self.issuer,
            "tee": self.tee,
            "measurement": self.measurement,
            "report_data": self.report_data.hex(),
            "tcb_status": self.tcb_status,
            "advisories": list(self.advisories),
            "issued": f"{self.issued:%FT%TZ}",
            "expires": f"{self.expires:%FT%TZ}",
        }


def verify_token(token: str, *, service: TokenService, report_data: bytes, now: datetime) -> TokenResult:
    """Return what ``token`` says if ``service`` signed it, it is current, and it is about ``report_data``.

    ``report_data``: the 64 bytes this relying party computed itself. A debug workload is refused, and so is a token
    that does not say whether its workload is one. Raise TokenError.
    """
    if len(report_data) != _REPORT_DATA:
        raise UsageError(f"report data has {_REPORT_DATA} bytes, got {len(report_data)}")
    claims = _open(token, service)
    issued, expires = _window(claims, now)
    if claims.get("iss") != service.issuer:
        raise TokenError(
            f"the token is by {str(claims.get('iss'))[:80]!r}, expected {service.issuer!r}",
            hint="every region and tenant of a service is an issuer of its own",
        )
    read = _read_ita if service.kind == "ita" else _read_maa
    try:
        tee, measurement, bound, debug, status, advisories = read(claims)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TokenError("the token lacks claims about an SGX enclave, trust domain or SNP guest") from error
    if debug is not False:
        raise TokenError("the token's workload runs in debug mode, or the token does not say", step="attributes")
    if not same(bound, report_data):
        raise TokenError(
            "the token is about evidence for another session",
            step="report-data",
            hint="ask for a token over fresh evidence",
        )
    return TokenResult(
        service=service.kind,
        issuer=service.issuer,
        tee=tee,
        measurement=measurement,
        report_data=bound,
        tcb_status=status,
        advisories=advisories,
        issued=issued,
        expires=expires,
    )


_Read = tuple[str, str, bytes, object, str, tuple[str, ...]]


def _open(token: str, service: TokenService) -> Mapping[str, Any]:
    if len(token) > MAX_TOKEN:
        raise TokenError(f"a token has at most {MAX_TOKEN} characters, got {len(token)}")
    keys = _read_keys(service.keys)
    try:
        head = token.partition(".")[0]
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        name = header["kid"]
        if not isinstance(name, str) or name not in keys or header.get("crit"):
            raise TokenError(
                f"the token names key {str(name)[:40]!r}, which is not among the {len(keys)} pinned",
                hint="the service may have rotated its keys: fetch its JWKS again over a channel you trust",
            )
        claims: Mapping[str, Any] = jwt.decode(token, keys[name], algorithms=list(ALGORITHMS[service.kind])).claims
    except (JoseError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TokenError("not a token that this service signed", hint="ask the service for a new one") from error
    return claims


def _read_keys(text: str) -> dict[str, RSAKey]:
    """Return the RSA keys of a JWKS by name; Azure's carry a certificate alone, of which the key is taken."""
    try:
        return {str(one["kid"]): _read_key(one) for one in json.loads(text)["keys"] if one.get("kty") == "RSA"}
    except (ValueError, KeyError, TypeError, AttributeError, JoseError, RecursionError) as error:
        raise UsageError("the pinned keys are not a JWKS document", hint='expected {"keys": [...]}') from error


def _read_key(value: Mapping[str, Any]) -> RSAKey:
    if "n" in value:
        key = RSAKey.import_key({"kty": "RSA", "n": value["n"], "e": value["e"]})
    else:
        certificate = x509.load_der_x509_certificate(base64.b64decode(value["x5c"][0]))
        key = RSAKey.import_key(certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    size = key.public_key.key_size
    if size < _LEAST_KEY_BITS:
        raise ValueError(f"a key of {size} bits")
    return key


def _window(claims: Mapping[str, Any], now: datetime) -> tuple[datetime, datetime]:
    try:
        issued, expires = (datetime.fromtimestamp(_seconds(claims[name]), UTC) for name in ("iat", "exp"))
        begins = datetime.fromtimestamp(_seconds(claims.get("nbf", claims["iat"])), UTC)
    except (KeyError, ValueError, TypeError, OverflowError, OSError) as error:
        raise TokenError("the token does not say when it was issued and expires") from error
    if expires - issued > MAX_AGE:
        raise TokenError(f"the token lives {expires - issued}, at most {MAX_AGE} accepted")
    if not max(issued, begins) - _SKEW <= now < expires:
        raise TokenError(
            f"the token is valid from {begins:%FT%TZ} to {expires:%FT%TZ}, not at {now:%FT%TZ}",
            hint="ask the service for a new one, or check the clock",
        )
    return issued, expires


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    return float(value)


def _read_ita(claims: Mapping[str, Any]) -> _Read:
    """Read Intel Trust Authority's claims; version 2 tokens nest them by TEE, version 1 has them at the top."""
    kind = str(claims.get("attester_type", "")).lower()
    nested = [claims[name] for name in _ITA_NESTED if isinstance(claims.get(name), dict)]
    body: Mapping[str, Any] = {**claims, **(nested[0] if len(nested) == 1 else {})}
    status = str(body["attester_tcb_status"])
    advisories = tuple(str(one) for one in body.get("attester_advisory_ids", ()))
    if kind == "tdx" or "tdx_mrtd" in body:
        return "tdx", _tdx(body), _data(body["tdx_report_data"]), body.get("tdx_is_debuggable"), status, advisories
    measurement = sgx_measurement(_exact(body["sgx_mrenclave"], 32))
    return "sgx", measurement, _data(body["sgx_report_data"]), body.get("sgx_is_debuggable"), status, advisories


def _read_maa(claims: Mapping[str, Any]) -> _Read:
    """Read Azure Attestation's claims about an SGX enclave, a trust domain or an SNP guest.

    In a token of an Azure guest's own vTPM (`azurevm`) the report data is the paravisor's, so that it never is the
    64 bytes asked for: such a token is refused.
    """
    kind = claims["x-ms-attestation-type"]
    status = str(claims.get("attester_tcb_status", claims.get("x-ms-sgx-tcb-status", "Unrated")))
    advisories = tuple(str(one) for one in claims.get("attester_advisory_ids", ()))
    if kind == "sgx":
        bound = _data(claims["x-ms-sgx-report-data"])
        debug = claims.get("x-ms-sgx-is-debuggable", claims.get("is-debuggable"))
        return "sgx", sgx_measurement(_exact(claims["x-ms-sgx-mrenclave"], 32)), bound, debug, status, advisories
    if kind == "tdxvm":
        debug = claims.get("tdx_td_attributes_debug")
        return "tdx", _tdx(claims), _data(claims["tdx_report_data"]), debug, status, advisories
    if kind == "sevsnpvm":
        bound = _data(claims["x-ms-sevsnpvm-reportdata"])
        measurement = snp_measurement(_exact(claims["x-ms-sevsnpvm-launchmeasurement"], 48))
        return "snp", measurement, bound, claims.get("x-ms-sevsnpvm-is-debuggable"), status, advisories
    raise ValueError(f"attestation of type {kind!r}")


def _tdx(claims: Mapping[str, Any]) -> str:
    rtmrs = tuple(_exact(claims[f"tdx_rtmr{number}"], 48) for number in range(4))
    return tdx_measurement(_exact(claims["tdx_mrtd"], 48), (rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]))


def _data(value: object) -> bytes:
    return _exact(value, _REPORT_DATA)


def _exact(value: object, length: int) -> bytes:
    """Return bytes written in hex, of exactly ``length``."""
    if not isinstance(value, str):
        raise TypeError("not a text")
    data = bytes.fromhex(value)
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes, expected {length}")
    return data
