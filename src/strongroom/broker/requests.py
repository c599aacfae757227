"""Parse what comes in at the doors: exact fields, bounded sizes, no guesses (spec/4-release.md §4).

Everything a stranger sends is parsed here before any decision sees it; what does not parse is refused with its kind.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic_core

from strongroom.errors import StrongroomError
from strongroom.statements import Statement

MAX_TEXTS = 4096


class MalformedRequestError(StrongroomError):
    """A request is not what its door expects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A JSON object with exactly the fields that its door names."""

    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, body: bytes, *names: str, optional: tuple[str, ...] = ()) -> Message:
        """Return the object in ``body``; raise MalformedRequestError unless it has exactly ``names``.

        Texts can be written down again: half a surrogate pair is not JSON here.
        """
        try:
            value = pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="keys")
        except ValueError as error:
            raise MalformedRequestError("the request is not JSON") from error
        if not isinstance(value, dict) or not set(names) <= set(value) <= {*names, *optional}:
            expected = ", ".join((*names, *(f"[{name}]" for name in optional)))
            raise MalformedRequestError(f"expected an object with {expected}")
        return cls(fields=value)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def text(self, name: str, *, limit: int = 4096) -> str:
        """Return a text field of at most ``limit`` characters."""
        value = self.fields[name]
        if not isinstance(value, str) or len(value) > limit:
            raise MalformedRequestError(f"{name} is a text of at most {limit} characters")
        return value

    def raw(self, name: str, *, size: int | None = None, limit: int = 1 << 20) -> bytes:
        """Return a base64 field, of exactly ``size`` bytes if given."""
        return decode64(self.text(name, limit=limit * 2), name=name, size=size)

    def number(self, name: str) -> int:
        """Return a whole number that is not negative."""
        value = self.fields[name]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1 << 53:
            raise MalformedRequestError(f"{name} is a whole number")
        return value

    def texts(self, name: str, *, limit: int = MAX_TEXTS) -> tuple[str, ...]:
        """Return a list of at most ``limit`` texts."""
        value = self.fields[name]
        if not isinstance(value, list) or len(value) > limit or not all(isinstance(one, str) for one in value):
            raise MalformedRequestError(f"{name} is a list of at most {limit} texts")
        return tuple(value)

    def mapping(self, name: str, *, limit: int = MAX_TEXTS) -> dict[str, Any]:
        """Return an object with at most ``limit`` members."""
        value = self.fields[name]
        if not isinstance(value, dict) or len(value) > limit:
            raise MalformedRequestError(f"{name} is an object with at most {limit} members")
        return value

    def statement(self, name: str) -> Statement:
        """Return a signed statement, not yet verified."""
        value = self.fields[name]
        if not isinstance(value, str):
            raise MalformedRequestError(f"{name} is a statement as text")
        return Statement.decode(value)


def decode64(text: str, *, name: str, size: int | None = None) -> bytes:
    """Return the bytes of standard base64; raise MalformedRequestError otherwise."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise MalformedRequestError(f"{name} is base64") from error
    if size is not None and len(raw) != size:
        raise MalformedRequestError(f"{name} has {size} bytes, got {len(raw)}")
    return raw


def encode64(raw: bytes) -> str:
    """Return standard base64."""
    return base64.b64encode(raw).decode()
