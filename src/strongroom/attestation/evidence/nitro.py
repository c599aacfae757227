"""Parse AWS Nitro attestation documents: a COSE_Sign1 over a CBOR map (spec/4-release.md §3.14).

Sources: AWS Nitro Enclaves, attestation process (document schema); RFC 9052 (COSE_Sign1), RFC 8949 (CBOR). It verifies
nothing, and raises nothing but MalformedEvidenceError.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import cbor2

from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.evidence.cbor import parse_cbor
from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.digests import digest384

MAX_BYTES: Final = 32 << 10
PROTECTED_ES384: Final = b"\xa1\x01\x38\x22"  # {1: -35}
_STARTS: Final = (b"\x84\x44" + PROTECTED_ES384, b"\xd2\x84\x44" + PROTECTED_ES384)
_SIGNATURE_BYTES, _PARTS, _COSE_SIGN1 = 96, 4, 18
_PCRS, _PCR_BYTES = 32, 48
_MEASURED: Final = (0, 1, 2)
_LIMITS: Final = {"public_key": 1024, "user_data": 1024, "nonce": 1024}
_MAX_CERTIFICATES, _MAX_CERTIFICATE_BYTES = 8, 1024
_MAX_MILLISECONDS = 1 << 43


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroDocument:
    """An attestation document; ``pcrs`` by number, ``cabundle`` from the root down, ``signed`` what was signed."""

    module_id: str
    timestamp: datetime
    pcrs: dict[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes
    user_data: bytes
    nonce: bytes
    signature: bytes
    signed: bytes

    @property
    def tee(self) -> TeeName:
        """Return ``nitro``."""
        return "nitro"

    @property
    def report_data(self) -> bytes:
        """Return the bytes the enclave chose: its user data."""
        return self.user_data

    @property
    def measurement(self) -> str:
        """Return ``nitro:<SHA-384 in hex>`` over the framed PCR0 (image), PCR1 (kernel) and PCR2 (application)."""
        return nitro_measurement(tuple(self.pcrs.get(number, b"") for number in _MEASURED))


def nitro_measurement(pcrs: tuple[bytes, ...]) -> str:
    """Return the canonical text of an enclave image's PCR0, PCR1 and PCR2."""
    return f"nitro:{digest384('strongroom/nitro-measurement/v1', *pcrs).hex()}"


def looks_like_nitro(data: bytes) -> bool:
    """Say whether ``data`` starts as a COSE_Sign1 signed with ES384."""
    return data.startswith(_STARTS)


def parse_nitro(data: bytes) -> NitroDocument:
    """Return every field of a document; every byte must belong to it."""
    if len(data) > MAX_BYTES:
        raise _malformed("document", f"{len(data)} bytes", f"at most {MAX_BYTES}")
    parts = parse_cbor(data, where="document", tag=_COSE_SIGN1)
    if not isinstance(parts, list) or len(parts) != _PARTS:
        raise _malformed("document", type(parts).__name__, "a COSE_Sign1 of four parts")
    protected, unprotected, payload, signature = parts
    if protected != PROTECTED_ES384 or unprotected != {}:
        raise _malformed("document.headers", repr(protected)[:40], "ES384 alone")
    if not isinstance(payload, bytes) or not isinstance(signature, bytes) or len(signature) != _SIGNATURE_BYTES:
        raise _malformed("document.signature", type(signature).__name__, f"{_SIGNATURE_BYTES} bytes over a payload")
    body = parse_cbor(payload, where="payload")
    if not isinstance(body, dict):
        raise _malformed("payload", type(body).__name__, "a map")
    if body.get("digest") != "SHA384":
        raise _malformed("payload.digest", repr(body.get("digest"))[:40], "SHA384")
    return NitroDocument(
        module_id=_text(body, "module_id"),
        timestamp=_time(body.get("timestamp")),
        pcrs=_pcrs(body.get("pcrs")),
        certificate=_bytes("certificate", body.get("certificate"), _MAX_CERTIFICATE_BYTES),
        cabundle=_bundle(body.get("cabundle")),
        public_key=_optional(body, "public_key"),
        user_data=_optional(body, "user_data"),
        nonce=_optional(body, "nonce"),
        signature=signature,
        signed=cbor2.dumps(["Signature1", protected, b"", payload]),
    )


def _text(body: dict[Any, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_CERTIFICATE_BYTES:
        raise _malformed(f"payload.{name}", type(value).__name__, "a text")
    return value


def _time(value: object) -> datetime:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MAX_MILLISECONDS:
        raise _malformed("payload.timestamp", repr(value)[:40], "milliseconds since 1970")
    return datetime.fromtimestamp(value / 1000, UTC)


def _pcrs(value: object) -> dict[int, bytes]:
    if not isinstance(value, dict) or not 0 < len(value) <= _PCRS:
        raise _malformed("payload.pcrs", type(value).__name__, f"a map of up to {_PCRS}")
    for number, pcr in value.items():
        if not isinstance(number, int) or not 0 <= number < _PCRS or not isinstance(pcr, bytes):
            raise _malformed("payload.pcrs", repr(number)[:40], f"numbers below {_PCRS}")
        if len(pcr) != _PCR_BYTES:
            raise _malformed(f"payload.pcrs.{number}", f"{len(pcr)} bytes", f"{_PCR_BYTES}")
    if any(number not in value for number in _MEASURED):
        raise _malformed("payload.pcrs", f"{sorted(value)}", "0, 1 and 2 among them")
    return dict(sorted(value.items()))


def _bundle(value: object) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_CERTIFICATES:
        raise _malformed("payload.cabundle", type(value).__name__, f"1 to {_MAX_CERTIFICATES} certificates")
    return tuple(_bytes("cabundle", one, _MAX_CERTIFICATE_BYTES) for one in value)


def _optional(body: dict[Any, Any], name: str) -> bytes:
    return b"" if body.get(name) is None else _bytes(name, body[name], _LIMITS[name])


def _bytes(name: str, value: object, most: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > most:
        raise _malformed(f"payload.{name}", type(value).__name__, f"at most {most} bytes")
    return value


def _malformed(field: str, got: str, expected: str) -> MalformedEvidenceError:
    return MalformedEvidenceError(field=field, got=got, expected=expected)
