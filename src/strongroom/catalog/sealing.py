"""Seal the broker's records under the store's key (spec/4-release.md §5.2, §5.5).

AES-256-GCM with the record's place and sequence as associated data, and a keyed hash over the whole set of records, so
that the host can neither read, change, swap, drop nor bring back a single one. It never sees plaintext keys on disk.
"""

from __future__ import annotations

import hmac
import os
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from strongroom.digests import frame
from strongroom.errors import StrongroomError

KEY_BYTES = 32
_NONCE_BYTES = 12
_SET_MODULUS = 1 << 256


class SealError(StrongroomError):
    """A sealed record was changed, moved, or sealed by another broker."""


class Sealer:
    """Seals and opens records; built from the store's key, which it does not keep."""

    __slots__ = ("_aead", "_tag_key")

    def __init__(self, sealing_key: bytes) -> None:
        if len(sealing_key) != KEY_BYTES:
            raise SealError(f"a sealing key has {KEY_BYTES} bytes, got {len(sealing_key)}")
        self._aead = AESGCM(_derive(sealing_key, b"strongroom/store/record/v1"))
        self._tag_key = _derive(sealing_key, b"strongroom/store/set/v1")

    def seal(self, plaintext: bytes, *, place: bytes) -> bytes:
        """Return nonce and ciphertext of ``plaintext``, good only at ``place``."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plaintext, place)

    def open(self, sealed: bytes, *, place: bytes) -> bytes:
        """Return the plaintext; raise SealError if it was changed, moved or sealed under another key."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as error:
            raise SealError(
                "a record of the store does not open",
                hint="the store was changed from outside, or belongs to a broker with another measurement or machine",
            ) from error

    def tag(self, sealed: bytes, *, place: bytes) -> int:
        """Return the record's share in the hash of the set: a keyed hash, added up modulo 2^256."""
        return int.from_bytes(hmac.digest(self._tag_key, frame(place, sealed), "sha256"), "big")

    def __repr__(self) -> str:
        return "Sealer()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealer cannot be pickled or copied")


def add_tags(*tags: int) -> int:
    """Return the sum of tags modulo 2^256; subtract by adding the negative."""
    return sum(tags) % _SET_MODULUS


def _derive(key: bytes, label: bytes) -> bytes:
    return HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=label).derive(key)
