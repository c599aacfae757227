"""Replay a boot event log (CCEL) into the runtime registers it claims to explain (spec/4-release.md §3.8).

Format: TCG PC Client Platform Firmware Profile, crypto-agile log (TCG_PCR_EVENT2), as UEFI's CC measurement protocol
fills it; register 0 is MRTD, 1 to 4 are RTMR0 to RTMR3. Only the digests are covered by the registers: what an event's
data says is its writer's word, unless the digest is recomputed from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from strongroom.attestation.evidence.layout import FieldReader
from strongroom.attestation.failures import MalformedEvidenceError

MAX_EVENTS = 4096
_DIGEST_BYTES: Final = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64}
_SHA384 = 0x000C
_NO_ACTION = 3
_SIGNATURE = b"Spec ID Event03\0"
_FIRST_HEADER = 32
_END = b"\xff\xff\xff\xff"
_EMPTY = bytes(12)
_REGISTERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BootEvent:
    """One measurement: ``register`` 0-3 for RTMR0-RTMR3, the event's TCG type, the digest extended, and its data."""

    register: int
    type: int
    digest: bytes
    data: bytes


def parse_event_log(data: bytes) -> tuple[BootEvent, ...]:
    """Return the events that extend RTMRs, in order; raise MalformedEvidenceError if the log is not well-formed."""
    reader = FieldReader(data, where="event log")
    reader.take(_FIRST_HEADER - 4, field="header")
    specification = reader.take(reader.take_u32(field="header size"), field="header data")
    if not specification.startswith(_SIGNATURE):
        raise MalformedEvidenceError(
            field="event log.header", got=specification[:16].hex(), expected="'Spec ID Event03' (crypto-agile log)"
        )
    events: list[BootEvent] = []
    while reader.left and not _ends(data, reader.offset):
        if len(events) == MAX_EVENTS:
            raise MalformedEvidenceError(field="event log", got="more events", expected=f"at most {MAX_EVENTS}")
        reader.where = f"event log.{len(events)}"
        register, kind = reader.take_u32(field="register"), reader.take_u32(field="type")
        digests = _read_digests(reader)
        body = reader.take(reader.take_u32(field="size"), field="data")
        if kind == _NO_ACTION:
            continue
        if not 1 <= register <= _REGISTERS or _SHA384 not in digests:
            raise MalformedEvidenceError(
                field=reader.where,
                got=f"register {register} with digests {sorted(digests)}",
                expected="register 1-4 with a SHA-384 digest",
            )
        events.append(BootEvent(register=register - 1, type=kind, digest=digests[_SHA384], data=body))
    return tuple(events)


def _ends(data: bytes, offset: int) -> bool:
    """Say whether nothing but padding follows: OVMF fills the table with ones, td-shim with zeros."""
    if data.startswith(_END, offset):
        return True
    return data.startswith(_EMPTY, offset) and data.count(0, offset) == len(data) - offset


def replay(events: Iterable[BootEvent]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what RTMR0-RTMR3 hold after ``events``, starting from zero."""
    registers = [bytes(48)] * _REGISTERS
    for event in events:
        registers[event.register] = hashlib.sha384(registers[event.register] + event.digest).digest()
    return (registers[0], registers[1], registers[2], registers[3])


def _read_digests(reader: FieldReader) -> dict[int, bytes]:
    count = reader.take_u32(field="digest count")
    if not 1 <= count <= len(_DIGEST_BYTES):
        raise MalformedEvidenceError(field=f"{reader.where}.digest count", got=str(count), expected="1 to 4")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.take_u16(field="digest algorithm")
        if algorithm not in _DIGEST_BYTES or algorithm in digests:
            raise MalformedEvidenceError(
                field=f"{reader.where}.digest algorithm",
                got=f"{algorithm:#06x}",
                expected="SHA-1, SHA-256, SHA-384 or SHA-512, each once",
            )
        digests[algorithm] = reader.take(_DIGEST_BYTES[algorithm], field="digest")
    return digests
