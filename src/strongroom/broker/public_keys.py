"""Hold the broker's public keys, which its evidence vouches for (spec/4-release.md §4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from strongroom.attestation.binding import key_bundle_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """What the broker's evidence vouches for."""

    tls_spki: bytes
    kem: bytes
    ledger: bytes

    @property
    def digest(self) -> bytes:
        """Return the 48 bytes that stand in the broker's REPORTDATA."""
        return key_bundle_digest(self.tls_spki, self.kem, self.ledger)


def encode_spki(public: object) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a certificate's key; raise ValueError unless it is P-256."""
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise ValueError("the broker's TLS key is P-256")  # noqa: TRY004  the caller catches one kind
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
