"""Hold the keys of one workload: a P-256 key for TLS and signatures, and a KEM key that secrets are sealed to.

Both live and die with the process; evidence commits to both at once (spec/6-attested-channel.md §2). The private
halves never print, pickle or copy, and signatures always name what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from strongroom.attestation.binding import key_bundle_digest
from strongroom.digests import frame
from strongroom.envelope.hpke import PUBLIC_BYTES as KEM_BYTES
from strongroom.envelope.hpke import KemKey
from strongroom.errors import TransportError

# RFC 5280 §4.1.2.5: 9999-12-31 means "no expiry". The evidence says how fresh the key is; the certificate need not.
_FROM, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "strongroom workload")])
# RFC 5480: the one DER encoding of a P-256 key, up to the coordinates of its point, which is uncompressed.
_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_POINT_BYTES = 65
_SPKI_BYTES = len(_SPKI) - 1 + _POINT_BYTES
_CURVE = ec.SECP256R1()


class WorkloadKeyError(TransportError):
    """Another workload's public keys are malformed, or a signature is not by them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """The public halves: ``spki`` (DER SubjectPublicKeyInfo of the P-256 key) and ``kem`` (1,216 bytes).

    ``digest``: the 48 bytes that evidence commits to, both keys as one bundle.
    """

    spki: bytes
    kem: bytes
    digest: bytes = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", key_bundle_digest(self.spki, self.kem))

    @classmethod
    def parse(cls, *, spki: bytes, kem: bytes) -> Self:
        """Return the keys if both are well formed; raise WorkloadKeyError otherwise."""
        _load(spki)
        if len(kem) != KEM_BYTES:
            raise WorkloadKeyError(f"a workload's KEM key has {KEM_BYTES} bytes, got {len(kem)}")
        return cls(spki=spki, kem=kem)

    def verify(self, signature: bytes, label: str, *parts: bytes) -> None:
        """Raise WorkloadKeyError unless ``signature`` is this workload's over ``label`` and ``parts``."""
        try:
            _load(self.spki).verify(signature, frame(label.encode(), *parts), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise WorkloadKeyError(
                f"the signature for {label!r} is not by this workload's key",
                hint="what was signed was changed, or another workload signed it",
            ) from error


class WorkloadKeys:
    """The private halves, and the self-signed certificate that TLS wants to see around the P-256 key."""

    __slots__ = ("_key", "certificate", "kem", "public")

    def __init__(self, *, key: ec.EllipticCurvePrivateKey, kem: KemKey) -> None:
        self._key = key
        self.kem = kem
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public = PublicKeys.parse(spki=spki, kem=kem.public)
        self.certificate = _self_sign(key)

    @classmethod
    def generate(cls) -> Self:
        """Make new keys."""
        return cls(key=ec.generate_private_key(ec.SECP256R1()), kem=KemKey.generate())

    @property
    def spki(self) -> bytes:
        """Return the DER SubjectPublicKeyInfo of the P-256 key."""
        return self.public.spki

    @property
    def digest(self) -> bytes:
        """Return the 48 bytes that evidence commits to."""
        return self.public.digest

    def sign(self, label: str, *parts: bytes) -> bytes:
        """Return the ECDSA signature (DER) over ``label`` and ``parts``, length-framed."""
        return self._key.sign(frame(label.encode(), *parts), ec.ECDSA(hashes.SHA256()))

    def reveal_tls_key(self) -> ec.EllipticCurvePrivateKey:
        """Return the private P-256 key; only the TLS line may call this."""
        return self._key

    def __repr__(self) -> str:
        return "WorkloadKeys()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a workload's keys cannot be pickled or copied")


def _self_sign(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _load(spki: bytes) -> ec.EllipticCurvePublicKey:
    if len(spki) != _SPKI_BYTES or not spki.startswith(_SPKI):  # One key has one encoding, and so one digest.
        raise WorkloadKeyError("a workload's signing key is not a P-256 key in the one canonical encoding")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, spki[-_POINT_BYTES:])
    except ValueError as error:
        raise WorkloadKeyError("a workload's signing key is not a point of P-256") from error
