"""Cut a byte string into named fields of exact length, or say which field did not fit.

It never reads past an end, never guesses, and raises nothing but MalformedEvidenceError.
"""

from __future__ import annotations

from strongroom.attestation.failures import MalformedEvidenceError


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
