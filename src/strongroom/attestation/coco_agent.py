"""Ask the Confidential Containers attestation agent for evidence, inside a pod that cannot see the kernel's interface.

Two APIs are in use: ttRPC on a Unix socket, and REST on loopback, whose runtime data may be base64 since 2026. Sources:
guest-components, attestation-agent.proto and api-server-rest; containerd/ttrpc, PROTOCOL.md. An older REST server takes
the text for the bytes; the answer is then over other report data, and is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx

from strongroom.answers import read_answer
from strongroom.attestation.evidence import Evidence, parse_quote
from strongroom.attestation.evidence.azure import looks_like_azure, parse_azure
from strongroom.attestation.tee import TeeDeviceError
from strongroom.digests import same
from strongroom.errors import EvidenceError, UsageError

AGENT_SOCKET: Final = Path("run/confidential-containers/attestation-agent/attestation-agent.sock")
AGENT_REST: Final = "http://127.0.0.1:8006"
SECONDS: Final = 30.0
_MAX_ANSWER: Final = 4 << 20
_HEAD: Final = struct.Struct(">IIBB")
_REQUEST, _RESPONSE, _STREAM = 1, 2, 1
_SERVICE: Final = "attestation_agent.AttestationAgentService"
_VARINT, _BYTES = 0, 2
_FIXED: Final = {1: 8, 5: 4}
_UNKNOWN_HINT: Final = "is the agent of the guest components running, and of a release that speaks this API?"


class Agent(Protocol):
    """An attestation agent, by either of its APIs."""

    def evidence(self, report_data: bytes) -> bytes:
        """Return the agent's evidence over ``report_data``, in JSON."""
        ...


class SocketAgent:
    """The agent's ttRPC service on a Unix socket."""

    def __init__(self, path: Path, *, seconds: float = SECONDS) -> None:
        self._path = path
        self._seconds = seconds

    def evidence(self, report_data: bytes) -> bytes:
        """Return the agent's evidence over ``report_data``, in JSON; raise TeeDeviceError within the deadline."""
        answer = self._call("GetEvidence", _encode_field(1, report_data))
        return next((value for number, value in _decode(answer) if number == 1 and isinstance(value, bytes)), b"")

    def _call(self, method: str, payload: bytes) -> bytes:
        nanoseconds = int(self._seconds * 1e9)
        request = b"".join(
            (
                _encode_field(1, _SERVICE.encode()),
                _encode_field(2, method.encode()),
                _encode_field(3, payload),
                b"\x20" + _encode_varint(nanoseconds),
            )
        )
        ends = time.monotonic() + self._seconds
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(self._seconds)
                line.connect(str(self._path))
                line.sendall(_HEAD.pack(len(request), _STREAM, _REQUEST, 0) + request)
                length, stream, kind, _ = _HEAD.unpack(_read_exactly(line, _HEAD.size, ends))
                if (stream, kind) != (_STREAM, _RESPONSE) or length > _MAX_ANSWER:
                    raise TeeDeviceError("the attestation agent answered something else than ttRPC", hint=_UNKNOWN_HINT)
                answer = _read_exactly(line, length, ends)
        except OSError as error:
            raise TeeDeviceError(
                f"the attestation agent at {self._path} does not answer: {error.strerror or error}", hint=_UNKNOWN_HINT
            ) from error
        return _open_answer(answer)


class RestAgent:
    """The agent's REST service on loopback; nothing else is asked, since the answer is not encrypted."""

    def __init__(self, url: str = AGENT_REST, *, seconds: float = SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise UsageError(f"not the address of an agent on this machine: {url[:80]!r}", hint=f"such as {AGENT_REST}")
        self._url = url.rstrip("/")
        self._seconds = seconds

    def evidence(self, report_data: bytes) -> bytes:
        """Return the agent's evidence over ``report_data``, in JSON; raise TeeDeviceError within the deadline."""
        text = base64.urlsafe_b64encode(report_data).decode().rstrip("=")
        try:
            with httpx.Client(trust_env=False, timeout=self._seconds) as client:
                answer = read_answer(
                    client,
                    "GET",
                    f"{self._url}/aa/evidence",
                    most=_MAX_ANSWER,
                    ends=time.monotonic() + self._seconds,
                    params={"runtime_data": text, "encoding": "base64"},
                )
        except httpx.HTTPError as error:
            raise TeeDeviceError(
                f"the attestation agent at {self._url} does not answer: {error}", hint=_UNKNOWN_HINT
            ) from error
        if answer.status != httpx.codes.OK:
            raise TeeDeviceError(
                f"the attestation agent answered HTTP {answer.status}: {answer.body[:120]!r}", hint=_UNKNOWN_HINT
            )
        return answer.body


def ask_agent(agent: Agent, report_data: bytes) -> Evidence:
    """Return the evidence that an agent gives over 64 bytes of report data; raise TeeDeviceError for anything else."""
    raw = agent.evidence(report_data)
    try:
        evidence, answered = _read(raw)
    except (EvidenceError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TeeDeviceError(
            "the attestation agent returned something that is not evidence",
            hint="its sample attester proves nothing; SEV-SNP evidence comes as fields, use configfs-tsm there",
        ) from error
    if not same(answered, report_data):
        raise TeeDeviceError(
            "the attestation agent returned evidence over other report data",
            hint="an older REST server cannot take bytes: use the agent's socket, or newer guest components",
        )
    return evidence


def _read(raw: bytes) -> tuple[Evidence, bytes]:
    if looks_like_azure(raw.strip()):
        found = parse_azure(raw.strip())
        return Evidence(tee=found.tee, quote=raw.strip()), found.report_data
    body: Any = json.loads(raw)
    quote = base64.b64decode(body["quote"], validate=True)
    log = body.get("cc_eventlog") or ""
    parsed = parse_quote(quote)
    try:
        event_log = base64.b64decode(log, validate=True)
    except (binascii.Error, TypeError):
        event_log = b""
    return Evidence(tee=parsed.tee, quote=quote, event_log=event_log), parsed.report_data


def _open_answer(answer: bytes) -> bytes:
    """Return the payload of a ttRPC response; raise TeeDeviceError with the agent's own words if it has a status."""
    payload = b""
    for number, value in _decode(answer):
        if number == 1 and isinstance(value, bytes) and value:
            status = dict(_decode(value))
            if status.get(1):
                words = status.get(2)
                said = words.decode(errors="replace")[:120] if isinstance(words, bytes) else ""
                raise TeeDeviceError(f"the attestation agent refused with code {status[1]!r}: {said}")
        elif number == 2 and isinstance(value, bytes):  # noqa: PLR2004  Response.payload
            payload = value
    return payload


def _read_exactly(line: socket.socket, size: int, ends: float) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        left = ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline passed")
        line.settimeout(left)
        part = line.recv(size - len(parts))
        if not part:
            raise ConnectionError("the agent closed the connection")
        parts += part
    return bytes(parts)


def _encode_varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:  # noqa: PLR2004  seven bits an octet
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def _encode_field(number: int, value: bytes) -> bytes:
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(value)) + value


def _decode(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Return the fields of a protocol buffer; raise TeeDeviceError if it is none."""
    offset = 0
    while offset < len(data):
        key, offset = _decode_varint(data, offset)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, offset = _decode_varint(data, offset)
            yield number, value
            continue
        if kind == _BYTES:
            length, offset = _decode_varint(data, offset)
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise TeeDeviceError("the attestation agent answered something that is no protocol buffer")
        if offset + length > len(data):
            raise TeeDeviceError("the attestation agent's answer was cut short")
        yield number, data[offset : offset + length]
        offset += length


def _decode_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(data):
            break
        octet = data[offset]
        offset += 1
        value |= (octet & 0x7F) << shift
        if not octet & 0x80:
            return value, offset
    raise TeeDeviceError("the attestation agent's answer has a number that does not end")
