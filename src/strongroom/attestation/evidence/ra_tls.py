"""Read the evidence inside an RA-TLS certificate, and say which key it commits to (spec/4-release.md §3.17).

Forms: interoperable RA-TLS (TCG DICE tagged evidence), the one that Gramine and Inclavare used before, Dstack's, and
RFC 9999 (CMW). Such a certificate can be replayed and relayed (CVE-2026-33697): it is read to be reported, and no
channel accepts one in place of evidence made for the session. Raises nothing but MalformedEvidenceError.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from strongroom.attestation.evidence.cbor import parse_cbor
from strongroom.attestation.evidence.der import BOOLEAN, OCTETS, DerValue
from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.digests import same

MAX_BYTES: Final = 256 << 10
INTEROPERABLE, LEGACY, DSTACK, CMW = "interoperable RA-TLS", "legacy RA-TLS", "Dstack RA-TLS", "RFC 9999 CMW"
_EXTENSIONS: Final = {
    "2.23.133.5.4.9": INTEROPERABLE,
    "1.2.840.113741.1337.6": LEGACY,
    "1.3.6.1.4.1.62397.1.1": DSTACK,
    "1.3.6.1.5.5.7.1.35": CMW,
}
_EVENT_LOG: Final = "1.3.6.1.4.1.62397.1.2"
_TAGGED_EVIDENCE: Final = bytes.fromhex("d9ea60")  # CBOR tag 60000
_HASHES: Final = {1: "sha256", 7: "sha384", 8: "sha512"}
_VERSION_TAG, _EXTENSIONS_TAG, _BITS, _UTC_TIME, _GENERAL_TIME = 0xA0, 0xA3, 0x03, 0x17, 0x18
_REPORT_DATA_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RaTlsCertificate:
    """What stands in such a certificate: ``spki`` is its key in DER, ``claims`` what the quote commits to besides."""

    form: str
    quote: bytes
    event_log: bytes
    spki: bytes
    claims: bytes
    not_after: datetime

    def binding(self, report_data: bytes) -> str:
        """Return how ``report_data`` commits to the certificate's key, in words; empty if it does not."""
        if self.claims and self._claims_name_the_key():
            return _first(report_data, {"SHA-256 of the claims": hashlib.sha256(self.claims).digest()})
        bits = _key_bits(self.spki)
        return _first(
            report_data,
            {
                "SHA-256 of the key": hashlib.sha256(self.spki).digest(),
                "SHA-256 of the key's bits": hashlib.sha256(bits).digest(),
                "SHA-384 of the key": hashlib.sha384(self.spki).digest(),
                "SHA-512 of the key": hashlib.sha512(self.spki).digest(),
                "SHA-512 of ratls-cert: and the key": hashlib.sha512(b"ratls-cert:" + self.spki).digest(),
            },
        )

    @property
    def nonce(self) -> bytes:
        """Return the nonce among the claims; empty where there is none, as in nearly all of them."""
        claims = self._claims()
        nonce = claims.get("nonce", b"")
        return nonce if isinstance(nonce, bytes) else b""

    def _claims(self) -> dict[Any, Any]:
        claims = parse_cbor(self.claims, where="claims") if self.claims else {}
        if not isinstance(claims, dict):
            raise _malformed("claims", type(claims).__name__, "a map")
        return claims

    def _claims_name_the_key(self) -> bool:
        value = self._claims().get("pubkey-hash")
        if isinstance(value, bytes):
            value = parse_cbor(value, where="claims.pubkey-hash")
        if not isinstance(value, list) or len(value) != 2 or value[0] not in _HASHES:  # noqa: PLR2004  algorithm, hash
            return False
        expected = hashlib.new(_HASHES[value[0]], self.spki).digest()
        return isinstance(value[1], bytes) and same(value[1], expected)


def looks_like_certificate(data: bytes) -> bool:
    """Say whether ``data`` is a certificate in PEM, or starts as one in DER does."""
    text = data.lstrip()
    return text.startswith(b"-----BEGIN CERTIFICATE-----") or (data[:2] == b"\x30\x82" and data[4:6] == b"\x30\x82")


def parse_ra_tls(data: bytes) -> RaTlsCertificate:
    """Return the evidence in the first certificate of ``data`` (PEM or DER); its signature is not looked at."""
    if len(data) > MAX_BYTES:
        raise _malformed("certificate", f"{len(data)} bytes", f"at most {MAX_BYTES}")
    parts = DerValue.parse(_der_of(data), where="certificate").items()
    fields = parts[0].items() if parts else []
    if fields and fields[0].tag == _VERSION_TAG:
        fields = fields[1:]
    if len(fields) < 7 or fields[-1].tag != _EXTENSIONS_TAG:  # noqa: PLR2004  six fields before the extensions
        raise _malformed("certificate", "other fields", "an X.509 certificate with extensions")
    extensions = dict(_read_extensions(fields[-1]))
    found = [oid for oid in _EXTENSIONS if oid in extensions]
    if len(found) != 1:
        raise _malformed(
            "certificate.extensions", f"{len(found)} with evidence", f"one of {', '.join(_EXTENSIONS.values())}"
        )
    form = _EXTENSIONS[found[0]]
    quote, claims = _read_evidence(form, extensions[found[0]])
    return RaTlsCertificate(
        form=form,
        quote=quote,
        event_log=_unwrapped(extensions.get(_EVENT_LOG, b"")),
        spki=fields[5].encoded,
        claims=claims,
        not_after=_read_end(fields[3]),
    )


def _der_of(data: bytes) -> bytes:
    text = data.strip()
    if not text.startswith(b"-----BEGIN"):
        return data
    body = text.split(b"-----")[2]
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error as error:
        raise _malformed("certificate", "other text", "PEM") from error


def _read_extensions(field: DerValue) -> Iterator[tuple[str, bytes]]:
    for extension in DerValue.parse(field.content, where="certificate.extensions").items():
        parts = [part for part in extension.items() if part.tag != BOOLEAN]
        if len(parts) != 2:  # noqa: PLR2004  name and value
            raise _malformed("certificate.extensions", f"{len(parts)} parts", "a name and a value")
        yield parts[0].oid(), parts[1].expect(OCTETS).content


def _read_evidence(form: str, value: bytes) -> tuple[bytes, bytes]:
    if form == INTEROPERABLE:
        if not value.startswith(_TAGGED_EVIDENCE):
            raise _malformed("evidence", value[:3].hex(), "CBOR tag 60000")
        pair = parse_cbor(value[len(_TAGGED_EVIDENCE) :], where="evidence")
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(one, bytes) for one in pair):  # noqa: PLR2004
            raise _malformed("evidence", type(pair).__name__, "a quote and its claims")
        return pair[0], pair[1]
    if form == CMW:
        return _read_cmw(_unwrapped(value)), b""
    return _unwrapped(value), b""


def _read_cmw(value: bytes) -> bytes:
    """Return what a record of RFC 9999 wraps: [type, value] in JSON or CBOR."""
    try:
        record = json.loads(value) if value[:1] == b"[" else parse_cbor(value, where="cmw")
        if isinstance(record, list) and len(record) >= 2:  # noqa: PLR2004  type and value
            wrapped = record[1]
            if isinstance(wrapped, str):
                wrapped = base64.urlsafe_b64decode(wrapped + "=" * (-len(wrapped) % 4))
            if isinstance(wrapped, bytes):
                return wrapped
    except (ValueError, RecursionError) as error:
        raise _malformed("cmw", "other text", "[type, value]") from error
    raise _malformed("cmw", type(record).__name__, "[type, value]")


def _unwrapped(value: bytes) -> bytes:
    """Return the octet string in ``value`` where there is a second one around it, as Dstack writes it."""
    if value[:1] != bytes([OCTETS]):
        return value
    try:
        return DerValue.parse(value, where="evidence").content
    except MalformedEvidenceError:
        return value  # a version 4 quote starts with the same byte


def _key_bits(spki: bytes) -> bytes:
    parts = DerValue.parse(spki, where="key").items()
    return parts[1].expect(_BITS).content[1:] if len(parts) == 2 else b""  # noqa: PLR2004  algorithm and bits


def _first(report_data: bytes, candidates: dict[str, bytes]) -> str:
    for name, value in candidates.items():
        if same(report_data, value.ljust(_REPORT_DATA_BYTES, b"\0")):
            return name
    return ""


def _read_end(validity: DerValue) -> datetime:
    times = validity.items()
    try:
        last = times[1]
        text = last.content.decode("ascii")
        if last.tag == _UTC_TIME:
            text = ("19" if text >= "50" else "20") + text
        elif last.tag != _GENERAL_TIME:
            raise _malformed("certificate.validity", f"tag {last.tag:#04x}", "a time")
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except (ValueError, IndexError) as error:
        raise _malformed("certificate.validity", "other text", "two times") from error


def _malformed(field: str, got: str, expected: str) -> MalformedEvidenceError:
    return MalformedEvidenceError(field=field, got=got, expected=expected)
