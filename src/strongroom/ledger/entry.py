"""Say what happened, in one canonical line of JSON that anyone can hash again (spec/5-ledger.md §1).

An entry states facts and reasons about parties, datasets, jobs and measurements; never a key, a row or a program.
"""

from __future__ import annotations

import json
import re
import secrets
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
MAX_BLANK = 128
_PLAIN = re.compile(rf"[0-9A-Za-z:.+-]{{0,{MAX_BLANK}}}\Z")  # What JSON writes as it is.


class EntryKind(StrEnum):
    """Everything the ledger speaks of."""

    START = "start"
    HANDOVER = "handover"
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
    ANSWERS = "answers"
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
        return _fitting(
            canonical_json(_document(self.kind, facts=self.facts, reasons=self.reasons, time=_time_text(self.time)))
        )

    def form(self, *blanks: str) -> EntryForm:
        """Return this entry as a form in which only its time and the facts named ``blanks``, texts, are filled in."""
        marks = {name: secrets.token_hex(16) for name in (*blanks, "time")}
        facts = {**self.facts, **{name: marks[name] for name in blanks}}
        encoded = canonical_json(_document(self.kind, facts=facts, reasons=self.reasons, time=marks["time"])).decode()
        found = re.compile("|".join(marks.values()))
        names = {mark: name for name, mark in marks.items()}
        return EntryForm(
            texts=tuple(found.split(encoded)), blanks=tuple(names[mark] for mark in found.findall(encoded))
        )

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryForm:
    """An entry that is written again and again with only a few texts changed: ``blanks``, one after each text."""

    texts: tuple[str, ...]
    blanks: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Return whether the entry has at most as many bytes as one may have, whatever is filled in."""
        return sum(len(text.encode()) for text in self.texts) + len(self.blanks) * MAX_BLANK <= MAX_ENTRY_BYTES

    def fill(self, facts: Mapping[str, str], *, time: datetime) -> bytes:
        """Return what :meth:`Entry.encode` returns with these ``facts``, plain ASCII for each blank, and ``time``."""
        for fact in facts.values():
            if not _PLAIN.match(fact):
                raise EntryError(f"a form is filled in with plain text, got {fact[:80]!r}")
        filled = {**facts, "time": _time_text(time)}
        parts = [text + filled[name] for text, name in zip(self.texts, self.blanks, strict=False)]
        return _fitting(("".join(parts) + self.texts[-1]).encode())


def _document(kind: EntryKind, *, facts: Mapping[str, Any], reasons: tuple[str, ...], time: str) -> dict[str, Any]:
    return {"kind": kind.value, "time": time, "facts": dict(facts), "reasons": list(reasons)}


def _time_text(time: datetime) -> str:
    if time.tzinfo is None:
        raise EntryError("an entry's time is UTC, got a time without zone")
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _fitting(encoded: bytes) -> bytes:
    if len(encoded) > MAX_ENTRY_BYTES:
        raise EntryError(f"an entry has at most {MAX_ENTRY_BYTES} bytes, got {len(encoded)}")
    return encoded
