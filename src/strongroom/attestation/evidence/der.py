"""Read the little DER that Intel's certificate extension needs: nested sequences, OIDs, integers, octet strings.

Definite lengths in their shortest form only (X.690 §10.1); one-byte tags. Raises nothing but MalformedEvidenceError.
"""

from __future__ import annotations

from strongroom.attestation.failures import MalformedEvidenceError

BOOLEAN, INTEGER, OCTETS, OID, ENUMERATED, SEQUENCE = 0x01, 0x02, 0x04, 0x06, 0x0A, 0x30
_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 3
_MAX_INTEGER_BYTES = 9


class DerValue:
    """One tagged value."""

    __slots__ = ("content", "tag", "where")

    def __init__(self, tag: int, content: bytes, *, where: str) -> None:
        self.tag = tag
        self.content = content
        self.where = where

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> DerValue:
        """Return the single value that ``data`` holds."""
        value, rest = _read(data, where)
        if rest:
            raise _malformed(where, f"{len(rest)} bytes after the value", "none")
        return value

    @property
    def encoded(self) -> bytes:
        """Return the value with its tag and length: the bytes it was read from, since only one encoding is read."""
        length = len(self.content)
        if length < _LONG_FORM:
            return bytes([self.tag, length]) + self.content
        octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
        return bytes([self.tag, _LONG_FORM | len(octets)]) + octets + self.content

    def expect(self, tag: int) -> DerValue:
        """Return this value if it has ``tag``."""
        if self.tag != tag:
            raise _malformed(self.where, f"tag {self.tag:#04x}", f"tag {tag:#04x}")
        return self

    def items(self) -> list[DerValue]:
        """Return the elements of a sequence."""
        self.expect(SEQUENCE)
        values, rest = [], self.content
        while rest:
            value, rest = _read(rest, self.where)
            values.append(value)
        return values

    def pairs(self) -> dict[str, DerValue]:
        """Return a sequence of (OID, value) sequences as a mapping; an OID that occurs twice is refused."""
        pairs: dict[str, DerValue] = {}
        for item in self.items():
            parts = item.items()
            if len(parts) != 2:  # noqa: PLR2004  a pair
                raise _malformed(self.where, f"a sequence of {len(parts)}", "an OID and a value")
            name = parts[0].oid()
            if name in pairs:
                raise _malformed(self.where, f"{name} twice", "once")
            pairs[name] = DerValue(parts[1].tag, parts[1].content, where=f"{self.where}.{name}")
        return pairs

    def oid(self) -> str:
        """Return an object identifier in dotted form."""
        content = self.expect(OID).content
        if not content or content[-1] & _LONG_FORM:
            raise _malformed(self.where, "a truncated OID", "an OID")
        arcs, arc = [], 0
        for octet in content:
            arc = arc << 7 | octet & 0x7F
            if not octet & _LONG_FORM:
                arcs.append(arc)
                arc = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))

    def integer(self, *, tag: int = INTEGER, most: int = 0xFFFF) -> int:
        """Return a non-negative integer (or, with ``tag``, an enumeration) of at most ``most``."""
        content = self.expect(tag).content
        value = int.from_bytes(content[:_MAX_INTEGER_BYTES], "big", signed=True)
        if not 0 < len(content) < _MAX_INTEGER_BYTES or not 0 <= value <= most:
            raise _malformed(self.where, f"{content[:_MAX_INTEGER_BYTES].hex() or 'nothing'}", f"0..{most}")
        return value

    def octets(self, length: int) -> bytes:
        """Return an octet string of exactly ``length`` bytes."""
        content = self.expect(OCTETS).content
        if len(content) != length:
            raise _malformed(self.where, f"{len(content)} bytes", f"{length} bytes")
        return content

    def boolean(self) -> bool:
        """Return a boolean."""
        content = self.expect(BOOLEAN).content
        if content not in (b"\x00", b"\xff"):
            raise _malformed(self.where, content.hex() or "nothing", "00 or ff")
        return content == b"\xff"


def _read(data: bytes, where: str) -> tuple[DerValue, bytes]:
    if len(data) < 2:  # noqa: PLR2004  tag and length
        raise _malformed(where, f"{len(data)} bytes", "a tag and a length")
    tag, length, start = data[0], data[1], 2
    if length & _LONG_FORM:
        start += length & 0x7F
        encoded = data[2:start]
        length = int.from_bytes(encoded, "big")
        if not 0 < len(encoded) <= _MAX_LENGTH_BYTES or encoded[0] == 0 or length < _LONG_FORM:
            raise _malformed(where, f"length {data[1 : start + 1][:8].hex()}", "a length in its shortest form")
    if len(data) - start < length:
        raise _malformed(where, f"{len(data) - start} bytes", f"{length} bytes")
    end = start + length
    return DerValue(tag, data[start:end], where=where), data[end:]


def _malformed(where: str, got: str, expected: str) -> MalformedEvidenceError:
    return MalformedEvidenceError(field=where, got=got, expected=expected)
