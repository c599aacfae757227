"""Hold the broker's own keys: TLS, key enrolment, ledger and admissions (spec/4-release.md §4.1).

They are made at the first start, live only in the sealed store and in memory, and are what the broker's evidence binds.
"""

from __future__ import annotations

import base64
import json
import os
from datetime import UTC, datetime, timedelta
from typing import NoReturn, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from strongroom.broker.names import SERVER_NAME
from strongroom.broker.public_keys import PublicKeys, encode_spki
from strongroom.catalog.store import Change
from strongroom.envelope.hpke import KemKey
from strongroom.statements import SigningKey

KIND = "broker-keys"
_LIFETIME = timedelta(days=3650)
_SECRET_BYTES = 32


class BrokerKeys:
    """The broker's private keys; they do not print, pickle or copy."""

    __slots__ = ("_tls_key", "admission_secret", "certificate_pem", "kem", "ledger", "origin", "public")

    def __init__(
        self, *, tls_key: bytes, certificate: bytes, kem: KemKey, ledger: SigningKey, admission_secret: bytes
    ) -> None:
        self._tls_key = tls_key
        self.certificate_pem = certificate
        self.kem = kem
        self.ledger = ledger
        self.admission_secret = admission_secret
        public = x509.load_pem_x509_certificate(certificate).public_key()
        self.public = PublicKeys(tls_spki=encode_spki(public), kem=kem.public, ledger=ledger.public.raw)
        self.origin = f"{SERVER_NAME}/{ledger.public.fingerprint}"

    @classmethod
    def generate(cls, *, now: datetime) -> Self:
        """Make new keys and a self-signed certificate for them."""
        return cls._make(now=now, kem=KemKey.generate(), ledger=SigningKey.generate(name="ledger"))

    def renew(self, *, now: datetime) -> Self:
        """Return keys of the same ledger, with the same KEM key, whose TLS key and admission secret are new."""
        return type(self)._make(now=now, kem=self.kem, ledger=self.ledger)

    @classmethod
    def _make(cls, *, now: datetime, kem: KemKey, ledger: SigningKey) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVER_NAME)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now.astimezone(UTC) - timedelta(days=1))
            .not_valid_after(now.astimezone(UTC) + _LIFETIME)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(
            tls_key=private,
            certificate=certificate.public_bytes(serialization.Encoding.PEM),
            kem=kem,
            ledger=ledger,
            admission_secret=os.urandom(_SECRET_BYTES),
        )

    def reveal_tls_key(self) -> bytes:
        """Return the TLS private key as PEM; only the server's start may call this."""
        return self._tls_key

    def to_change(self) -> Change:
        """Return the record that the sealed store keeps."""
        parts = {
            "tls_key": self._tls_key,
            "certificate": self.certificate_pem,
            "kem": self.kem.encode_private(),
            "ledger": self.ledger.reveal_seed(),
            "admission_secret": self.admission_secret,
        }
        value = json.dumps({name: base64.b64encode(part).decode() for name, part in parts.items()}).encode()
        return Change(kind=KIND, key="broker", value=value)

    @classmethod
    def from_change(cls, change: Change) -> Self:
        """Return the keys that :meth:`to_change` wrote."""
        parts = {name: base64.b64decode(part) for name, part in json.loads(change.value).items()}
        return cls(
            tls_key=parts["tls_key"],
            certificate=parts["certificate"],
            kem=KemKey.decode_private(parts["kem"]),
            ledger=SigningKey.from_seed(parts["ledger"], name="ledger"),
            admission_secret=parts["admission_secret"],
        )

    def __repr__(self) -> str:
        return f"BrokerKeys(origin={self.origin!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("the broker's keys cannot be pickled or copied")
