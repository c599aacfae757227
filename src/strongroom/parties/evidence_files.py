"""Find the evidence in a file that a person names, whatever form it was saved in.

Raw bytes, hexadecimal text (one quote or several), base64, JSON in which a quote stands, RA-TLS certificates, what
agents wrap in SCALE, and Open Enclave's reports. It looks and unpacks; it verifies nothing, and evidence in a protocol
never comes through here.
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
_JSON: Final = (b"{", b"[", b'"')
_LEAST_TEXT: Final = 800  # no quote or report is shorter
_DEPTH: Final = 6
_HEX: Final = re.compile(rb"(?:0x)?((?:[0-9a-fA-F]{2})+)")
_BASE64: Final = re.compile(rb"[0-9A-Za-z+/_-]+={0,2}")
_NUMBERED: Final = re.compile(r"(.+)#(\d+)")
_LOG_NAMES: Final = ("event_log", "cc_eventlog", "eventlog", "ccel")
_LOG_MARK: Final = b"Spec ID Event03"
_OPEN_ENCLAVE: Final = b"\1\0\0\0\2\0\0\0"  # oe_report_header_t: version 1, remote; its size as u64 follows
_OPEN_ENCLAVE_HEADER: Final = 16
_TOKEN: Final = re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]*")
_PARAVISOR: Final = b"HCLA"
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
    PEM without evidence, a token, or a paravisor's report alone.
    """
    place, number = _locate(path)
    found = read_each(place)
    if number is None:
        if len(found) > 1:
            raise UsageError(f"{place} holds {len(found)} quotes", hint=f"name one of them: {place}#0")
        return found[0]
    if number >= len(found):
        raise UsageError(f"{place} holds {len(found)} quotes, number {number} is not among them", hint="count from 0")
    return found[number]


def read_each(place: Path) -> list[EvidenceFile]:
    """Return every piece of evidence in a file, at least one; raise MalformedEvidenceError as :func:`read_evidence`."""
    with place.open("rb") as stream:
        data = stream.read(MAX_BYTES)
    _refuse_other_kinds(place, data)
    if looks_like_certificate(data):
        return [_from_certificate(place, data)]
    return _in_json(place, data) if data.lstrip()[:1] in _JSON else _in_bytes(data)


def find_evidence(data: bytes) -> bytes | None:
    """Return the evidence that bytes or text are, or None if they are nothing of the kind."""
    found = [one for one in _readings(data) if _is_evidence(one)]
    return found[0] if found else None


def find_all(data: bytes) -> tuple[bytes, ...]:
    """Return every piece of evidence that a file's content is or has in it, once each and in order; none is fine."""
    if data.lstrip()[:1] not in _JSON:
        return tuple(one.quote for one in _in_bytes(data) if _is_evidence(one.quote))
    try:
        return tuple(dict.fromkeys(_walk(json.loads(data), _DEPTH)))
    except (ValueError, RecursionError):
        return ()


def find_token(data: bytes) -> bytes | None:
    """Return the token (a signed JWT) that a file is, or that stands as ``token`` in its JSON; None for another."""
    text = data.strip()
    if text[:1] == b"{":
        try:
            held = json.loads(text).get("token")
        except (ValueError, RecursionError):
            return None
        text = held.encode(errors="replace") if isinstance(held, str) else b""
    return text if _TOKEN.fullmatch(text) else None


def _locate(path: Path) -> tuple[Path, int | None]:
    named = None if path.exists() else _NUMBERED.fullmatch(str(path))
    place, number = (path, None) if named is None else (Path(named[1]), int(named[2]))
    if not place.is_file():
        raise UsageError(f"{place} is not a file", hint="name a file with a quote, report or evidence in it")
    return place, number


def _refuse_other_kinds(place: Path, data: bytes) -> None:
    """Raise MalformedEvidenceError, with the verb that helps, for what people take for evidence and is none."""
    if find_token(data) is not None:
        raise MalformedEvidenceError(
            field=place.name,
            got="a token, which is a service's word about evidence",
            expected="the evidence itself",
            hint="`strongroom attest token` verifies tokens, `strongroom inspect` shows what one says",
        )
    if data.startswith(_PARAVISOR):
        raise MalformedEvidenceError(
            field=place.name,
            got="a paravisor's report alone",
            expected="JSON with hcl_report, tpm_quote, and vcek or td_quote",
            hint="without the vTPM's quote nothing binds it to a session; `strongroom inspect` shows what it says",
        )


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
        raw = bytes.fromhex(digits[1].decode())
        yield from _without_open_enclave_header(raw)
        yield unwrap_scale(raw)
    if len(text) >= _LEAST_TEXT and _BASE64.fullmatch(text):
        plain = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        if len(plain) % 4 != 1:
            yield unwrap_scale(base64.b64decode(plain + b"=" * (-len(plain) % 4)))
    stripped = data.strip()
    if data.startswith(_RESPONSE):
        yield data[len(_RESPONSE) : len(_RESPONSE) + REPORT_BYTES]
    yield from _without_open_enclave_header(data)
    yield stripped if looks_like_azure(stripped) else unwrap_scale(data)


def _without_open_enclave_header(data: bytes) -> Iterator[bytes]:
    body = data[_OPEN_ENCLAVE_HEADER:]
    if data.startswith(_OPEN_ENCLAVE) and int.from_bytes(data[8:_OPEN_ENCLAVE_HEADER], "little") == len(body):
        yield body


def _is_evidence(data: bytes) -> bool:
    version, key_type = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
    is_dcap = data[12:28] == INTEL_QE_VENDOR or (version in (3, 4, 5) and key_type in (2, 3))
    return is_dcap or looks_like_snp(data) or looks_like_nitro(data) or looks_like_azure(data.strip())


def _in_json(place: Path, data: bytes) -> list[EvidenceFile]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _without_evidence(place, "text that starts as JSON and is not") from error
    if isinstance(body, dict) and _is_azure(body):
        return [EvidenceFile(quote=data.strip())]
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
        yield from _walk_object(value, depth)
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


def _walk_object(value: dict[str, Any], depth: int) -> Iterator[bytes]:
    if _is_azure(value):
        yield json.dumps(value).encode()
    elif isinstance(value.get("outblob"), str):  # configfs-tsm's files in JSON
        yield from _with_certificates(value["outblob"], value.get("auxblob"))
    else:
        for one in value.values():
            yield from _walk(one, depth - 1)


def _with_certificates(report: str, certificates: object) -> Iterator[bytes]:
    found = find_evidence(report.encode(errors="replace"))
    if found is None:
        return
    text = certificates if isinstance(certificates, str) and looks_like_snp(found) else ""
    table = next(iter(_readings(text.encode(errors="replace"))), b"") if len(text) >= _LEAST_TEXT else b""
    yield found + table


def _is_azure(value: dict[str, Any]) -> bool:
    """Say whether this object itself, and not one within it, is an Azure guest's evidence."""
    return "hcl_report" in value or {"report", "vcek"} <= set(value)


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
