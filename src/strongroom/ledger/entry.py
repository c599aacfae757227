"""Say what happened, in one canonical line of JSON that anyone can hash again (spec/5-ledger.md §1).

An entry states facts and reasons about parties, datasets, jobs and measurements; never a key, a row or a program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

from strongroom.errors import LedgerError
from strongroom.statements import canonical_json

MAX_ENTRY_BYTES = 0xFFFF  # An entry bundle of tlog-tiles frames each entry with a 16-bit length.
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_FIELDS = {"kind", "time", "facts", "reasons"}


class EntryKind(StrEnum):
    """Everything the ledger speaks of."""

    START = "start"
    ROLLBACK = "rollback"
    MEMBER = "member"
    DATASET = "dataset"
    POLICY = "policy"
    JOB = "job"
    GRANT = "grant"
    REFUSAL = "refusal"
    ADMISSION = "admission"
    REVOCATION = "revocation"
    APPROVAL = "approval"
    OUTPUT = "output"
    RESULT = "result"


class EntryError(LedgerError):
    """Bytes that should be a ledger entry are not one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened; ``facts`` are plain JSON, ``reasons`` are every rule that said no (or empty)."""

    kind: EntryKind
    time: datetime
    facts: Mapping[str, Any]
    reasons: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """Return the canonical JSON that is hashed; raise EntryError if it does not fit an entry bundle."""
        if self.time.tzinfo is None:
            raise EntryError("an entry's time is UTC, got a time without zone")
        encoded = canonical_json(
            {
                "kind": self.kind.value,
                "time": self.time.astimezone(UTC).strftime(_TIME),
                "facts": dict(self.facts),
                "reasons": list(self.reasons),
            }
        )
        if len(encoded) > MAX_ENTRY_BYTES:
            raise EntryError(f"an entry has at most {MAX_ENTRY_BYTES} bytes, got {len(encoded)}")
        return encoded

    @classmethod
    def decode(cls, encoded: bytes) -> Self:
        """Parse canonical JSON as an entry; raise EntryError for anything that is not exactly one."""
        if len(encoded) > MAX_ENTRY_BYTES:
            raise EntryError(f"an entry has at most {MAX_ENTRY_BYTES} bytes, got {len(encoded)}")
        try:
            value = json.loads(encoded)
            canonical = canonical_json(value)
            if not isinstance(value, dict) or set(value) != _FIELDS or canonical != encoded:
                raise EntryError("an entry is canonical JSON (RFC 8785) with kind, time, facts and reasons")
            facts, reasons = value["facts"], value["reasons"]
            if not isinstance(facts, dict) or not isinstance(reasons, list):
                raise EntryError("an entry's facts are an object and its reasons a list")
            if not all(isinstance(reason, str) for reason in reasons):
                raise EntryError("an entry's reasons are texts")
            time = datetime.strptime(value["time"], _TIME).replace(tzinfo=UTC)
            if time.strftime(_TIME) != value["time"]:
                raise EntryError("an entry's time has six decimals and ends in Z")
            return cls(kind=EntryKind(value["kind"]), time=time, facts=MappingProxyType(facts), reasons=tuple(reasons))
        except (ValueError, TypeError, RecursionError) as error:
            raise EntryError(
                "not a ledger entry", hint="the export was damaged or written by something else"
            ) from error
