"""Read the little CBOR that attestation documents need: unsigned and negative integers, strings, arrays, maps, null.

RFC 8949, without floats, tags (but one at the top), indefinite strings and duplicate keys. A general decoder also
builds big numbers, regular expressions and shared references for a stranger; this one takes no more memory than its
input calls for, and raises nothing but MalformedEvidenceError.
"""

from __future__ import annotations

from typing import Any, Final

from strongroom.attestation.failures import MalformedEvidenceError

MAX_DEPTH: Final = 8
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_NULL, _BREAK, _INDEFINITE = 22, 31, 31
_FOLLOWING: Final = {24: 1, 25: 2, 26: 4, 27: 8}


def parse_cbor(data: bytes, *, where: str, tag: int | None = None) -> Any:  # noqa: ANN401  CBOR is whatever CBOR is
    """Return the single value that ``data`` holds, every byte of it; it may stand under ``tag``, which is dropped."""
    reader = _Reader(data, where)
    if tag is not None and data[:1] == bytes([_TAG << 5 | tag]):
        reader.offset = 1
    value = reader.value(depth=0)
    if reader.offset != len(data):
        raise reader.malformed(f"{len(data) - reader.offset} bytes after its end", "none")
    return value


class _Break:
    """What ends an array or map of indefinite length."""


_END: Final = _Break()


class _Reader:
    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self.offset = 0

    def malformed(self, got: str, expected: str) -> MalformedEvidenceError:
        """Return the error for what was met at the present place."""
        return MalformedEvidenceError(field=f"{self._where} at {self.offset}", got=got, expected=expected)

    def value(self, *, depth: int) -> Any:  # noqa: ANN401
        """Return the next value."""
        found = self._item(depth)
        if found is _END:
            raise self.malformed("an end of nothing", "a value")
        return found

    def _item(self, depth: int) -> Any:  # noqa: ANN401
        if depth > MAX_DEPTH:
            raise self.malformed("deeper nesting", f"at most {MAX_DEPTH}")
        initial = self._take(1)[0]
        kind, extra = initial >> 5, initial & 31
        if kind == _SIMPLE:
            if extra not in (_NULL, _BREAK):
                raise self.malformed(f"simple value {extra}", "null")
            return None if extra == _NULL else _END
        if kind in (_ARRAY, _MAP) and extra == _INDEFINITE:
            return self._container(kind, None, depth)
        number = self._number(extra)
        if kind in (_ARRAY, _MAP):
            return self._container(kind, number, depth)
        return self._scalar(kind, number)

    def _scalar(self, kind: int, number: int) -> int | bytes | str:
        if kind == _TAG:
            raise self.malformed(f"tag {number}", "none")
        if kind in (_BYTES, _TEXT):
            return self._take(number) if kind == _BYTES else self._text(number)
        return number if kind == _UNSIGNED else -1 - number

    def _container(self, kind: int, count: int | None, depth: int) -> Any:  # noqa: ANN401
        items: list[Any] = []
        pairs: dict[Any, Any] = {}
        while count is None or len(items if kind == _ARRAY else pairs) < count:
            first = self._item(depth + 1)
            if first is _END:
                if count is None:
                    break
                raise self.malformed("an end", f"{count} items")
            if kind == _ARRAY:
                items.append(first)
                continue
            if not isinstance(first, int | str | bytes) or first in pairs:
                raise self.malformed("another kind of key, or one twice", "an integer or string, once")
            pairs[first] = self.value(depth=depth + 1)
        return items if kind == _ARRAY else pairs

    def _number(self, extra: int) -> int:
        if extra < min(_FOLLOWING):
            return extra
        if extra not in _FOLLOWING:
            raise self.malformed(f"length {extra}", "a definite one")
        return int.from_bytes(self._take(_FOLLOWING[extra]), "big")

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise self.malformed("other bytes", "UTF-8") from error

    def _take(self, length: int) -> bytes:
        end = self.offset + length
        if end > len(self._data):
            raise self.malformed(f"{len(self._data) - self.offset} bytes", f"{length}")
        taken = self._data[self.offset : end]
        self.offset = end
        return taken
