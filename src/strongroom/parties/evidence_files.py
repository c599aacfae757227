"""Find the evidence in a file that a person names, whatever form it was saved in.

Raw bytes, hexadecimal text (one quote or several), base64, JSON in which a quote stands, RA-TLS certificates, and what
agents wrap in SCALE. It looks and unpacks; it verifies nothing, and evidence in a protocol never comes through here.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from strongroom.attestation.evidence.azure import looks_like_azure
from strongroom.attestation.evidence.carriage import MAX_EVENT_LOG_BYTES, Evidence
from strongroom.attestation.evidence.nitro import looks_like_nitro
from strongroom.attestation.evidence.quote import INTEL_QE_VENDOR
from strongroom.attestation.evidence.ra_tls import RaTlsCertificate, looks_like_certificate, parse_ra_tls
from strongroom.attestation.evidence.scale import unwrap_scale
from strongroom.attestation.evidence.snp import REPORT_BYTES, looks_like_snp
from strongroom.attestation.failures import MalformedEvidenceError
from strongroom.errors import EvidenceError, UsageError

MAX_BYTES: Final = 8 << 20
_LEAST_TEXT: Final = 800  # no quote or report is shorter
_DEPTH: Final = 6
_HEX: Final = re.compile(rb"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_BASE64: Final = re.compile(rb"[0-9A-Za-z+/_-]+={0,2}")
_NUMBERED: Final = re.compile(r"(.+)#(\d+)")
_LOG_NAMES: Final = ("event_log", "cc_eventlog", "eventlog", "ccel")
_LOG_MARK: Final = b"Spec ID Event03"
_RESPONSE: Final = bytes(4) + REPORT_BYTES.to_bytes(4, "little") + bytes(24)  # MSG_REPORT_RSP of /dev/sev-guest


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFile:
    """What was found: the quote, report or document; the boot event log beside it; the certificate it stands in."""

    quote: bytes
    event_log: bytes = b""
    certificate: RaTlsCertificate | None = None


def read_evidence(path: Path) -> EvidenceFile:
    """Return the evidence in the file at ``path``; ``FILE#N`` names the N-th quote, from 0, of a file with several.

    A file in which nothing is recognised is taken for a quote as it is: verification says what is wrong with it. Raise
    UsageError for a file that is not there or holds several quotes and names none, MalformedEvidenceError for JSON or
    PEM without evidence.
    """
    place, number = _locate(path)
    with place.open("rb") as stream:
        data = stream.read(MAX_BYTES)
    if looks_like_certificate(data):
        return _from_certificate(place, data)
    found = _in_json(place, data) if data.lstrip()[:1] in (b"{", b"[", b'"') else _in_bytes(data)
    if number is None:
        if len(found) > 1:
            raise UsageError(f"{place} holds {len(found)} quotes", hint=f"name one of them: {place}#0")
        return found[0]
    if number >= len(found):
        raise UsageError(f"{place} holds {len(found)} quotes, number {number} is not among them", hint="count from 0")
    return found[number]


def find_evidence(data: bytes) -> bytes | None:
    """Return the evidence that bytes or text are, or None if they are nothing of the kind."""
    found = [one for one in _readings(data) if _is_evidence(one)]
    return found[0] if found else None


def find_in_json(data: bytes) -> tuple[bytes, ...]:
    """Return every piece of evidence in JSON text, once each and in order; raise ValueError for other text."""
    return tuple(dict.fromkeys(_walk(json.loads(data), _DEPTH)))


def _locate(path: Path) -> tuple[Path, int | None]:
    named = None if path.exists() else _NUMBERED.fullmatch(str(path))
    place, number = (path, None) if named is None else (Path(named[1]), int(named[2]))
    if not place.is_file():
        raise UsageError(f"{place} is not a file", hint="name a file with a quote, report or evidence in it")
    return place, number


def _from_certificate(place: Path, data: bytes) -> EvidenceFile:
    try:
        certificate = parse_ra_tls(data)
    except EvidenceError as error:
        raise MalformedEvidenceError(
            field=place.name,
            got=f"a certificate without evidence ({error.message})",
            expected="an RA-TLS certificate, which carries a quote in an extension",
            hint="other certificates prove nothing about a TEE; a VCEK is collateral: --collateral FILE",
        ) from error
    log = certificate.event_log if _LOG_MARK in certificate.event_log[:64] else b""
    return EvidenceFile(quote=certificate.quote, event_log=log, certificate=certificate)


def _in_bytes(data: bytes) -> list[EvidenceFile]:
    words = data.split()
    if len(words) > 1 and all(_HEX.fullmatch(word) for word in words):
        each = [found for word in words if (found := find_evidence(word)) is not None]
        if len(each) == len(words):
            return [EvidenceFile(quote=one) for one in each]
    readings = list(_readings(data))
    return [EvidenceFile(quote=next((one for one in readings if _is_evidence(one)), readings[0]))]


def _readings(data: bytes) -> Iterator[bytes]:
    """Return what ``data`` may stand for, the likeliest first: decoded if it is text, itself at last."""
    text = b"".join(data.split())
    if (digits := _HEX.fullmatch(text)) is not None:
        yield unwrap_scale(bytes.fromhex(digits[1].decode()))
    if len(text) >= _LEAST_TEXT and _BASE64.fullmatch(text):
        plain = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        if len(plain) % 4 != 1:
            yield unwrap_scale(base64.b64decode(plain + b"=" * (-len(plain) % 4)))
    stripped = data.strip()
    if data.startswith(_RESPONSE):
        yield data[len(_RESPONSE) : len(_RESPONSE) + REPORT_BYTES]
    yield stripped if looks_like_azure(stripped) else unwrap_scale(data)


def _is_evidence(data: bytes) -> bool:
    version, key_type = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
    is_dcap = data[12:28] == INTEL_QE_VENDOR or (version in (3, 4, 5) and key_type in (2, 3))
    return is_dcap or looks_like_snp(data) or looks_like_nitro(data) or looks_like_azure(data.strip())


def _in_json(place: Path, data: bytes) -> list[EvidenceFile]:
    if looks_like_azure(data.strip()):
        return [EvidenceFile(quote=data.strip())]
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _without_evidence(place, "text that starts as JSON and is not") from error
    try:
        evidence = Evidence.from_json(body)
        return [EvidenceFile(quote=evidence.quote, event_log=evidence.event_log)]
    except EvidenceError:
        found = dict.fromkeys(_walk(body, _DEPTH))
    if not found:
        raise _without_evidence(place, "JSON without evidence in it")
    log = next(_logs(body, _DEPTH), b"") if len(found) == 1 else b""
    return [EvidenceFile(quote=quote, event_log=log) for quote in found]


def _without_evidence(place: Path, got: str) -> MalformedEvidenceError:
    return MalformedEvidenceError(
        field=place.name,
        got=got,
        expected="a quote, report or document in bytes, hex, base64 or JSON",
        hint="collateral is named by --collateral, a token by `strongroom attest token`",
    )


def _walk(value: Any, depth: int) -> Iterator[bytes]:  # noqa: ANN401  any JSON
    """Return every piece of evidence in JSON, in order: text in hex or base64, lists of numbers, JSON within JSON."""
    if depth == 0:
        return
    if isinstance(value, dict):
        text = json.dumps(value).encode()
        if looks_like_azure(text):
            yield text
            return
        for one in value.values():
            yield from _walk(one, depth - 1)
    elif isinstance(value, list):
        if _is_bytes(value):
            raw = unwrap_scale(bytes(value))
            if _is_evidence(raw):
                yield raw
            return
        for one in value:
            yield from _walk(one, depth - 1)
    elif isinstance(value, str) and len(value) >= _LEAST_TEXT:
        if value.lstrip()[:1] in ("{", "["):
            try:
                yield from _walk(json.loads(value), depth - 1)
            except (ValueError, RecursionError):
                return
        elif (found := find_evidence(value.encode(errors="replace"))) is not None:
            yield found


def _is_bytes(value: list[Any]) -> bool:
    return len(value) >= _LEAST_TEXT // 2 and all(type(one) is int and 0 <= one <= 255 for one in value)  # noqa: PLR2004


def _logs(value: Any, depth: int) -> Iterator[bytes]:  # noqa: ANN401  any JSON
    if depth == 0 or not isinstance(value, dict | list):
        return
    items = value.items() if isinstance(value, dict) else ((None, one) for one in value)
    for name, one in items:
        if name in _LOG_NAMES and isinstance(one, str) and len(one) <= 2 * MAX_EVENT_LOG_BYTES:
            log = _decode_log(one)
            if _LOG_MARK in log[:64]:
                yield log
        else:
            yield from _logs(one, depth - 1)


def _decode_log(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return b""
