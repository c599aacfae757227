"""Keep a log of what a workload did after boot, and replay it against the register it was extended into (RTMR3).

The register holds one digest; only with its log can anybody say what it stands for. An entry is extended before it is
written, so a log that replays has left nothing out. Spec/4-release.md §3.18. Nothing here decides what may be in a log.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import cbor2

from strongroom.attestation.evidence.cbor import parse_cbor
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError
from strongroom.attestation.guests import replay_extensions
from strongroom.digests import digest384, same
from strongroom.errors import UsageError

FORMAT: Final = "strongroom/runtime-log/v1"
LABEL: Final = "strongroom/runtime-event/v1"
MAX_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 4096
_MAX_NAME: Final = 128


class Register(Protocol):
    """A register that only grows: guests.RuntimeRegister, or its emulation."""

    def extend(self, digest: bytes) -> bytes:
        """Extend the register by a SHA-384 digest and return its new value."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEvent:
    """One thing that was done: a ``name`` such as ``program-loaded``, and its ``content``, often a digest."""

    name: str
    content: bytes

    @property
    def digest(self) -> bytes:
        """Return the 48 bytes that the register was extended by."""
        return digest384(LABEL, self.name.encode(), self.content)


class RuntimeLog:
    """The log of one register, in a file that is replaced whole with every entry; threads may share it."""

    def __init__(self, register: Register, path: Path) -> None:
        self._register = register
        self._path = path
        self._lock = threading.Lock()
        self._events: list[RuntimeEvent] = []

    def record(self, name: str, content: bytes) -> RuntimeEvent:
        """Extend the register, then write the entry; raise TeeDeviceError, and write nothing, if that failed."""
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise UsageError(f"an event's name has 1 to {_MAX_NAME} printable characters, got {name[:40]!r}")
        event = RuntimeEvent(name=name, content=content)
        with self._lock:
            if len(self._events) >= MAX_ENTRIES or len(encode_log([*self._events, event])) > MAX_BYTES:
                raise UsageError(f"a runtime log has at most {MAX_ENTRIES} entries and {MAX_BYTES} bytes")
            self._register.extend(event.digest)
            self._events.append(event)
            written = self._path.with_name(self._path.name + ".new")
            written.write_bytes(encode_log(self._events))
            written.replace(self._path)
        return event


def encode_log(events: list[RuntimeEvent]) -> bytes:
    """Return a log as CBOR: its format, then a list of [name, content]."""
    return cbor2.dumps([FORMAT, [[one.name, one.content] for one in events]])


def parse_runtime_log(data: bytes) -> tuple[RuntimeEvent, ...]:
    """Return the entries of a log; raise MalformedEvidenceError for anything else."""
    if len(data) > MAX_BYTES:
        raise MalformedEvidenceError(field="runtime log", got=f"{len(data)} bytes", expected=f"at most {MAX_BYTES}")
    body: Any = parse_cbor(data, where="runtime log")
    entries = body[1] if isinstance(body, list) and len(body) == 2 and body[0] == FORMAT else None  # noqa: PLR2004
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        raise MalformedEvidenceError(field="runtime log", got="another shape", expected=f"{FORMAT} and its entries")
    return tuple(_read_event(entry) for entry in entries)


def verify_runtime_log(data: bytes, register: bytes) -> tuple[RuntimeEvent, ...]:
    """Return the entries of a log that replays to ``register`` of a verified quote; raise MeasurementError if not."""
    events = parse_runtime_log(data)
    replayed = replay_extensions(tuple(one.digest for one in events))
    if not same(replayed, register):
        raise MeasurementError(
            f"the runtime log replays to {replayed.hex()[:16]}.., the quote has {register.hex()[:16]}..",
            hint="an entry is missing, was added or changed, or the log is another start's",
        )
    return events


def _read_event(entry: object) -> RuntimeEvent:
    if isinstance(entry, list) and len(entry) == 2:  # noqa: PLR2004  name and content
        name, content = entry
        if isinstance(name, str) and 0 < len(name) <= _MAX_NAME and isinstance(content, bytes):
            return RuntimeEvent(name=name, content=content)
    raise MalformedEvidenceError(field="runtime log", got=type(entry).__name__, expected="a name and its content")
