"""Cut a byte string into named fields of exact length, or say which field did not fit.

It never reads past an end, never guesses, and raises nothing but MalformedEvidenceError.
"""

from __future__ import annotations

import struct
from typing import Any

from strongroom.attestation.failures import MalformedEvidenceError


class Layout:
    """Named fields that follow one another, each written as ``struct`` does, little endian."""

    __slots__ = ("fields", "struct")

    def __init__(self, **fields: str) -> None:
        self.struct = struct.Struct("<" + "".join(fields.values()))
        self.fields = {name: struct.calcsize("<" + written) for name, written in fields.items()}


class FieldReader:
    """A cursor over immutable bytes; every read names the field it is for."""

    __slots__ = ("_data", "_end", "offset", "where")

    def __init__(self, data: bytes, *, where: str, offset: int = 0, end: int | None = None) -> None:
        self._data = data
        self._end = len(data) if end is None else end
        self.offset = offset
        self.where = where

    @property
    def left(self) -> int:
        """Return how many bytes are unread."""
        return self._end - self.offset

    def take(self, length: int, *, field: str) -> bytes:
        """Return the next ``length`` bytes."""
        start = self.offset
        if length > self._end - start:
            raise MalformedEvidenceError(
                field=f"{self.where}.{field}",
                got=f"{self._end - start} bytes at offset {start}",
                expected=f"{length} bytes",
                hint="the quote was cut short or is not a quote",
            )
        self.offset = start + length
        return self._data[start : self.offset]

    def take_all(self, layout: Layout) -> dict[str, Any]:
        """Return the next fields, all that ``layout`` names."""
        start = self.offset
        if layout.struct.size > self.left:
            for name, length in layout.fields.items():  # One of them does not fit, and is named.
                self.take(length, field=name)
        self.offset = start + layout.struct.size
        return dict(zip(layout.fields, layout.struct.unpack_from(self._data, start), strict=True))

    def take_u16(self, *, field: str) -> int:
        """Return the next two bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.take(2, field=field), "little")

    def take_u32(self, *, field: str) -> int:
        """Return the next four bytes as an unsigned little-endian integer."""
        return int.from_bytes(self.take(4, field=field), "little")

    def finish(self) -> None:
        """Raise MalformedEvidenceError unless everything was read."""
        if self.left:
            raise MalformedEvidenceError(
                field=self.where,
                got=f"{self.left} bytes after its last field (offset {self.offset})",
                expected="none",
                hint="something was appended; a genuine quote's lengths account for every byte",
            )
