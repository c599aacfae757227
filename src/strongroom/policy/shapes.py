"""The shapes of text in policy and job documents: names, party ids, digests, measurements, columns, times.

Each shape says in words what it expects, and stands in the published JSON Schema with the same words
(spec/2-policy.md §2). Shapes are checked once, at the door, and nothing is trimmed or guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_ITEMS = 10_000
_YEARS = range(2000, 10_000)
_WHEN = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:\d{2})", re.ASCII)
_WHEN_SAYS = "a time with its zone and in whole seconds, such as 2027-01-31T00:00:00Z"
_PARTY = r"[a-z0-9][a-z0-9-]{0,62}:[0-9a-f]{32}"


@dataclass(frozen=True, slots=True)
class Shape:
    """Text that matches ``pattern`` to its end and holds only printable characters; ``says`` is for people."""

    pattern: str
    says: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$", "description": self.says}

    def check(self, text: str) -> str:
        """Return ``text`` if it has this shape."""
        if not text.isprintable() or not re.fullmatch(self.pattern, text, re.ASCII):
            raise PydanticCustomError("shape", "{says}", {"says": self.says})
        return text


@dataclass(frozen=True, slots=True)
class OneOf:
    """Text that is one of ``values``."""

    values: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # noqa: ANN401
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.values)}

    def check(self, text: str) -> str:
        """Return ``text`` if it is one of the values."""
        if text not in self.values:
            raise PydanticCustomError("choice", "one of {values}", {"values": ", ".join(self.values)})
        return text


def _check_distinct(values: list[str]) -> list[str]:
    """Refuse a value listed twice: two lines for one thing are where documents start to contradict themselves."""
    seen: set[str] = set()
    for value in values:
        # Two party ids are the same party if their fingerprints agree, whatever the names say.
        meant = value.rpartition(":")[2] if re.fullmatch(_PARTY, value) else value
        if meant in seen:
            raise PydanticCustomError("twice", "every entry once; {value} stands there twice", {"value": value})
        seen.add(meant)
    if len(values) > MAX_ITEMS:
        raise PydanticCustomError("many", "at most {most} entries", {"most": MAX_ITEMS})
    return values


def _check_present(values: Any) -> Any:  # noqa: ANN401  a list or a table
    if not values:
        raise PydanticCustomError("empty", "at least one entry")
    return values


def _parse_when(value: object) -> datetime:
    if isinstance(value, str) and _WHEN.fullmatch(value):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise PydanticCustomError("when", "{says}", {"says": _WHEN_SAYS}) from error
    if isinstance(value, date) and not isinstance(value, datetime):
        raise PydanticCustomError("when", "{says}; add T00:00:00Z to the date", {"says": _WHEN_SAYS})
    if not isinstance(value, datetime) or value.microsecond or value.year not in _YEARS:
        raise PydanticCustomError("when", "{says}", {"says": _WHEN_SAYS})
    if value.tzinfo is None:
        raise PydanticCustomError("when", "{says}; end it with Z for UTC", {"says": _WHEN_SAYS})
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("when", "{says}", {"says": _WHEN_SAYS}) from error


def when_text(moment: datetime) -> str:
    """Return a time in its only written form, ``2027-01-31T00:00:00Z``."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


Distinct = AfterValidator(_check_distinct)
NotEmpty = AfterValidator(_check_present)

Name = Annotated[str, Shape(r"[a-z][a-z0-9_-]{0,62}", "a name that starts with a-z and holds a-z, 0-9, - and _")]
Party = Annotated[str, Shape(_PARTY, "a party id, name:<32 hex digits>, as `strongroom identity` prints it")]
Program = Annotated[
    str, Shape(r"sha256:[0-9a-f]{64}", "a program's digest, sha256: and 64 hex digits, as sha256sum prints them")
]
Measurement = Annotated[
    str,
    Shape(
        r"sgx:[0-9a-f]{64}|tdx:[0-9a-f]{96}",
        "a measurement, sgx: and 64 hex digits or tdx: and 96, as `strongroom measure` prints it",
    ),
]
PolicyDigest = Annotated[str, Shape(r"sha256:[0-9a-f]{64}", "a policy's digest, sha256: and 64 hex digits")]
Purpose = Annotated[str, Shape(r"\S(.{0,118}\S)?", "a purpose in 1 to 120 printable characters")]
Column = Annotated[str, Shape(r"\S(.{0,254}\S)?", "a column's name in 1 to 256 printable characters")]
Advisory = Annotated[str, Shape(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", "an advisory's id, such as INTEL-SA-00615")]
Location = Annotated[str, Shape(r"\S(.{0,2046}\S)?", "a path or an address in 1 to 2048 printable characters")]
Memory = Annotated[str, Shape(r"[1-9][0-9]{0,5}[mg]", "an amount of memory, such as 512m or 4g")]
Nonce = Annotated[str, Shape(r"[0-9a-f]{32}", "32 hex digits")]
When = Annotated[
    datetime,
    BeforeValidator(_parse_when),
    WithJsonSchema({"type": "string", "format": "date-time", "description": _WHEN_SAYS}),
]
Parties = Annotated[list[Party], Distinct]
Columns = Annotated[list[Column], Distinct]
