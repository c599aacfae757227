"""Hash with a label and length-framed parts, so that no two meanings share a digest.

``digest(label, a, b)`` is SHA-256 over ``frame(label, a, b)``; every part is preceded by its length (u32, little
endian), so ("ab", "c") and ("a", "bc") differ. Nothing in Strongroom concatenates and hashes by hand.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from strongroom.errors import StrongroomError

_TEXT = re.compile(r"^(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96})$")
_BLOCK = 1 << 20


class DigestError(StrongroomError):
    """A digest in text form is malformed."""


def frame(*parts: bytes) -> bytes:
    """Return the parts, each preceded by its length as u32 little endian (spec/4-release.md §2)."""
    return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def digest(label: str, *parts: bytes) -> bytes:
    """Return the 32-byte SHA-256 of the framed label and parts."""
    return hashlib.sha256(frame(label.encode(), *parts)).digest()


def digest384(label: str, *parts: bytes) -> bytes:
    """Return the 48-byte SHA-384 of the framed label and parts."""
    return hashlib.sha384(frame(label.encode(), *parts)).digest()


def to_text(value: bytes) -> str:
    """Return ``sha256:<hex>`` or ``sha384:<hex>`` for a digest of 32 or 48 bytes."""
    names = {32: "sha256", 48: "sha384"}
    if len(value) not in names:
        raise DigestError(f"a digest has 32 or 48 bytes, got {len(value)}")
    return f"{names[len(value)]}:{value.hex()}"


def parse_text(text: str) -> bytes:
    """Return the bytes of ``sha256:<hex>`` or ``sha384:<hex>``."""
    if not _TEXT.fullmatch(text):
        raise DigestError(f"not a digest: {text[:80]!r}", hint="write sha256: followed by 64 lower-case hex digits")
    return bytes.fromhex(text.partition(":")[2])


def file_digest(path: Path) -> str:
    """Return the plain SHA-256 of a file's bytes as ``sha256:<hex>``, reading it in blocks."""
    with path.open("rb") as stream:
        return to_text(hashlib.file_digest(stream, "sha256").digest())


def bytes_digest(data: bytes) -> str:
    """Return the plain SHA-256 of ``data`` as ``sha256:<hex>``; what ``sha256sum`` prints."""
    return to_text(hashlib.sha256(data).digest())


def same(left: bytes, right: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left, right)
