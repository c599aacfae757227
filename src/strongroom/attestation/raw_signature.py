"""Verify ECDSA signatures as evidence and collateral carry them: two bare numbers, r and s, without DER around them."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import HashAlgorithm


def read_numbers(raw: bytes) -> tuple[int, int]:
    """Return r and s of a signature that is both, big endian and of one length, one after the other."""
    half = len(raw) // 2
    return int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")


def is_signed(data: bytes, numbers: tuple[int, int], key: ec.EllipticCurvePublicKey, algorithm: HashAlgorithm) -> bool:
    """Say whether ``numbers``, r and s, are a signature of ``data`` by ``key``."""
    try:
        key.verify(encode_dss_signature(*numbers), data, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True
