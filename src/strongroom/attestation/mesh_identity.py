"""Issue short-lived certificates to attested workloads, so that ordinary TLS servers can tell them apart (spec/6 §9).

One authority is one job's, lives in one attested workload's memory and dies with it: a new job, or a new list of
reference values, has a new authority, and old and new workloads cannot talk. A certificate says who was attested when
it was issued; it is no evidence, and nothing that needs evidence accepts it.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from strongroom.attestation.encounter import Attested
from strongroom.attestation.introduction import check_job_digest
from strongroom.attestation.roles import Role
from strongroom.attestation.workload_keys import WorkloadKeys
from strongroom.errors import EvidenceError, UsageError

LIFETIME: Final = timedelta(hours=1)
FRESHEST: Final = timedelta(minutes=10)
_SKEW: Final = timedelta(minutes=1)
_DOMAIN: Final = "mesh.strongroom"
_SCHEME: Final = "strongroom://"
_UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound)


class MeshIdentityError(EvidenceError):
    """A certificate is not that of an attested workload of this job, now; or a workload may not have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshIdentity:
    """Whom a certificate names: role, measurement and key as they were attested, and until when it says so."""

    name: str
    role: Role
    measurement: str
    spki: bytes
    not_after: datetime


class MeshAuthority:
    """Issues identities for one job; ``certificate`` is its root, in DER, which goes to every workload it admits."""

    def __init__(
        self,
        *,
        job_digest: bytes,
        lifetime: timedelta = LIFETIME,
        freshest: timedelta = FRESHEST,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._job_digest = check_job_digest(job_digest)
        self._lifetime = lifetime
        self._freshest = freshest
        self._clock = clock
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("Strongroom mesh of one job", job_digest)
        now = clock()
        usage = _usage(certificates=True)
        self._root = (
            self._begin(self._name, self._key.public_key(), now=now, until=now + 365 * timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = self._root.public_bytes(Encoding.DER)

    def issue(self, channel: Attested) -> bytes:
        """Return a certificate (DER) for the peer of ``channel``, over the key that its evidence commits to.

        Raise MeshIdentityError for a peer without evidence, and for evidence that is not fresh: renew it first.
        """
        result, now = channel.peer, self._clock()
        if result is None:
            raise MeshIdentityError("a client has no evidence, and gets no identity", step="mesh")
        if not -_SKEW <= now - channel.attested_at <= self._freshest:
            raise MeshIdentityError(
                f"the peer was attested at {channel.attested_at:%FT%TZ}, expected within {self._freshest}",
                step="mesh",
                hint="renew its evidence first: channel.reattest()",
            )
        key = load_der_public_key(channel.peer_keys.spki)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise MeshIdentityError("the peer's key is not on P-256", step="mesh")
        name = mesh_name(channel.peer_role, channel.peer_keys.spki, job_digest=self._job_digest)
        uri = f"{_SCHEME}{self._job_digest.hex()}/{channel.peer_role.value}/{result.measurement}"
        names = x509.SubjectAlternativeName([x509.DNSName(name), x509.UniformResourceIdentifier(uri)])
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            self._begin(_named(channel.peer_role.value, self._job_digest), key, now=now, until=now + self._lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )

    def _begin(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, now: datetime, until: datetime
    ) -> x509.CertificateBuilder:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority, critical=False)
        )


def mesh_name(role: Role, spki: bytes, *, job_digest: bytes) -> str:
    """Return the DNS name under which a workload of a job is known, by its key."""
    return f"{role.value}-{hashlib.sha256(spki).hexdigest()[:24]}.{job_digest.hex()[:24]}.{_DOMAIN}"


def verify_identity(certificate: bytes, *, authority: bytes, job_digest: bytes, now: datetime) -> MeshIdentity:
    """Return whom a certificate (DER) names; raise MeshIdentityError unless ``authority`` issued it for this job."""
    check_job_digest(job_digest)
    try:
        leaf, root = x509.load_der_x509_certificate(certificate), x509.load_der_x509_certificate(authority)
        leaf.verify_directly_issued_by(root)
        constraints = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (name,), (uri,) = (
            names.get_values_for_type(x509.DNSName),
            names.get_values_for_type(x509.UniformResourceIdentifier),
        )
        job, role_text, measurement = uri.removeprefix(_SCHEME).split("/", 2)
        role = Role.parse(role_text)
        spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (*_UNREADABLE, InvalidSignature, UsageError) as error:
        raise MeshIdentityError("the certificate was not issued by this job's authority", step="mesh") from error
    if job != job_digest.hex() or name != mesh_name(role, spki, job_digest=job_digest) or constraints.ca:
        raise MeshIdentityError("the certificate is another job's, or names another key", step="mesh")
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise MeshIdentityError(
            f"the certificate is valid from {leaf.not_valid_before_utc:%FT%TZ} to {leaf.not_valid_after_utc:%FT%TZ}, "
            f"not at {now:%FT%TZ}",
            step="mesh",
            hint="an identity lives an hour: renew the evidence and have a new one issued",
        )
    return MeshIdentity(name=name, role=role, measurement=measurement, spki=spki, not_after=leaf.not_valid_after_utc)


def mesh_context(keys: WorkloadKeys, certificate: bytes, *, authority: bytes, server: bool) -> ssl.SSLContext:
    """Return a context of the standard library for mutual TLS 1.3 among this job's workloads.

    A client names the peer by :func:`mesh_name` as ``server_hostname``. The key passes through anonymous memory only.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authority)
    if server:
        context.num_tickets = 0
    key = keys.reveal_tls_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.memfd_create("strongroom-mesh", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, key + ssl.DER_cert_to_PEM_cert(certificate).encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)
    return context


def _named(what: str, job_digest: bytes) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, what),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, job_digest.hex()[:48]),
        ]
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
