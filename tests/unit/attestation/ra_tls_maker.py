"""Make RA-TLS certificates in each form that is read, around simulated quotes."""

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FORMS = ("interoperable RA-TLS", "legacy RA-TLS", "Dstack RA-TLS", "RFC 9999 CMW")
OIDS = dict(
    zip(
        FORMS,
        ("2.23.133.5.4.9", "1.2.840.113741.1337.6", "1.3.6.1.4.1.62397.1.1", "1.3.6.1.5.5.7.1.35"),
        strict=True,
    )
)


def make_certificate(
    form: str,
    quote: Callable[[bytes], bytes],
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    committed: ec.EllipticCurvePrivateKey | None = None,
    nonce: bytes = b"",
) -> bytes:
    """Return a self-signed certificate (DER) over ``key`` whose evidence commits to ``committed``, or to that key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    spki = (committed or key).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if form == "interoperable RA-TLS":
        hashed = cbor2.dumps([1, hashlib.sha256(spki).digest()])
        claims = cbor2.dumps({"pubkey-hash": hashed, **({"nonce": nonce} if nonce else {})})
        value = cbor2.dumps(cbor2.CBORTag(60000, [quote(hashlib.sha256(claims).digest().ljust(64, b"\0")), claims]))
    elif form == "Dstack RA-TLS":
        inner = quote(hashlib.sha512(b"ratls-cert:" + spki).digest())
        value = b"\x04\x82" + len(inner).to_bytes(2, "big") + inner
    else:
        value = quote(hashlib.sha256(spki).digest().ljust(64, b"\0"))
        if form == "RFC 9999 CMW":
            value = json.dumps(["application/vnd.quote", base64.urlsafe_b64encode(value).decode().rstrip("=")]).encode()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "RATLS")])
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(OIDS[form]), value)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2060, 12, 31, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(extension, critical=False)
        .sign(key, SHA256())
        .public_bytes(Encoding.DER)
    )
