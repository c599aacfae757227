"""Seal short messages to an attested public key (RFC 9180 with MLKEM768-X25519, HKDF-SHA256, AES-256-GCM).

Post-quantum hybrid: an attacker must break ML-KEM-768 and X25519 both. Single shot only; ``info`` and ``aad`` are both
bound, framed into HPKE's info (spec/1-encrypted-dataset.md §7). A private key never prints, pickles or copies.
"""

from __future__ import annotations

from typing import NoReturn, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from strongroom.digests import frame
from strongroom.errors import EnvelopeError

PUBLIC_BYTES = 1216
PRIVATE_BYTES = 96
OVERHEAD_BYTES = 1120 + 16
_MLKEM_PUBLIC = 1184
_MLKEM_SEED = 64
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class SealedMessageError(EnvelopeError):
    """A message sealed to a public key cannot be opened, or the key is malformed."""


class KemKey:
    """The private half of a key that others seal messages to."""

    __slots__ = ("_key", "_mlkem", "_x25519", "public")

    def __init__(self, *, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._mlkem = mlkem
        self._x25519 = x25519
        self._key = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public: bytes = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Self:
        """Make a new key pair."""
        return cls(mlkem=MLKEM768PrivateKey.generate(), x25519=X25519PrivateKey.generate())

    def open(self, ciphertext: bytes, *, info: bytes, aad: bytes = b"") -> bytes:
        """Return the plaintext sealed with the same ``info`` and ``aad``; raise SealedMessageError otherwise."""
        try:
            return _SUITE.decrypt(ciphertext, self._key, _bind(info, aad))
        except (InvalidTag, ValueError) as error:
            raise SealedMessageError(
                f"cannot open a sealed message of {len(ciphertext)} bytes",
                hint="it was sealed to another key, for another purpose, or changed on the way",
            ) from error

    def encode_private(self) -> bytes:
        """Return the 96 private bytes (ML-KEM seed, X25519 scalar); only custody and the sealed store may call this."""
        return self._mlkem.private_bytes_raw() + self._x25519.private_bytes_raw()

    @classmethod
    def decode_private(cls, data: bytes) -> Self:
        """Return the key that :meth:`encode_private` wrote."""
        if len(data) != PRIVATE_BYTES:
            raise SealedMessageError(f"a private key has {PRIVATE_BYTES} bytes, got {len(data)}")
        return cls(
            mlkem=MLKEM768PrivateKey.from_seed_bytes(data[:_MLKEM_SEED]),
            x25519=X25519PrivateKey.from_private_bytes(data[_MLKEM_SEED:]),
        )

    def __repr__(self) -> str:
        return "KemKey()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key cannot be pickled or copied")


def seal(public: bytes, plaintext: bytes, *, info: bytes, aad: bytes = b"") -> bytes:
    """Return ``plaintext`` sealed to ``public`` (1,136 bytes longer), bound to ``info`` and ``aad``."""
    return _SUITE.encrypt(plaintext, _parse_public(public), _bind(info, aad))


def _parse_public(public: bytes) -> hpke.MLKEM768X25519PublicKey:
    if len(public) != PUBLIC_BYTES:
        raise SealedMessageError(f"a public key has {PUBLIC_BYTES} bytes, got {len(public)}")
    try:
        return hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC:]),
        )
    except ValueError as error:
        raise SealedMessageError("not an MLKEM768-X25519 public key") from error


def _bind(info: bytes, aad: bytes) -> bytes:
    return frame(b"strongroom/hpke/v1", info, aad)
