"""Open a platform's certificate chain and what Intel wrote about the platform into its leaf (spec/4-release.md §3.3).

Source: Intel SGX PCK Certificate and CRL Profile Specification 1.5, §1.3.5 (extension 1.2.840.113741.1.13.1). It checks
shape and names; signatures, revocation and dates are verified with the collateral.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from strongroom.attestation.evidence.der import ENUMERATED, DerValue
from strongroom.attestation.failures import CertificateError, MalformedEvidenceError

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
MAX_CHAIN_BYTES = 32 << 10
CHAIN_LENGTH = 3
# Everything that pyca/cryptography raises while it opens a certificate or list that a stranger wrote.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_ARC = "1.2.840.113741.1.13.1"
_COMPONENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtension:
    """What the leaf says of the platform.

    Single-package platforms (processor CA) have no instance id, which is then empty, and no flags: ``undefined``.
    """

    ppid: bytes
    cpusvn: bytes
    components: tuple[int, ...]
    pcesvn: int
    pceid: bytes
    fmspc: bytes
    sgx_type: int
    platform_instance_id: bytes
    dynamic_platform: str
    cached_keys: str
    smt: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PckChain:
    """Leaf, intermediate authority and root, in this order."""

    certificates: tuple[x509.Certificate, ...]
    extension: PckExtension
    ca: str

    @property
    def leaf(self) -> x509.Certificate:
        """Return the platform's own certificate."""
        return self.certificates[0]


@lru_cache(maxsize=512)
def parse_pck_chain(pem: bytes) -> PckChain:
    """Return the three certificates of a PEM chain, leaf first; raise CertificateError or MalformedEvidenceError.

    Pure, and remembered for the last chains: a cluster has few platforms and attests often.
    """
    certificates = parse_certificates(pem, where="pck chain")
    if len(certificates) != CHAIN_LENGTH:
        raise CertificateError(
            f"the platform's chain has {len(certificates)} certificates, expected leaf, authority and root"
        )
    leaf, *authorities = certificates
    # Early DCAP releases wrote the root before the authority; which is which, each says itself.
    certificates = (leaf, *sorted(authorities, key=lambda one: one.subject == one.issuer))
    names = [common_name(certificate) for certificate in certificates]
    if "SGX PCK Certificate" not in names[0]:
        raise CertificateError(f"the platform's certificate is named {names[0]!r}, expected '... SGX PCK Certificate'")
    ca = next((kind for kind in ("platform", "processor") if f"SGX PCK {kind.title()} CA" in names[1]), "")
    if not ca:
        raise CertificateError(
            f"the platform's authority is named {names[1]!r}, expected '... SGX PCK Platform CA' or '... Processor CA'"
        )
    return PckChain(certificates=certificates, extension=_parse_extension(certificates[0]), ca=ca)


def parse_certificates(pem: bytes, *, where: str) -> tuple[x509.Certificate, ...]:
    """Return the certificates in PEM text (a trailing NUL is allowed); raise CertificateError."""
    if len(pem) > MAX_CHAIN_BYTES:
        raise CertificateError(f"{where}: {len(pem)} bytes, at most {MAX_CHAIN_BYTES} expected")
    try:
        certificates = tuple(x509.load_pem_x509_certificates(pem.rstrip(b"\0")))
        for certificate in certificates:  # cryptography opens these lazily; open them here, where a failure has a name
            _ = (certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key())
    except UNREADABLE as error:
        raise CertificateError(f"{where}: not PEM certificates") from error
    return certificates


def common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, or an empty text."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def sgx_extension_of(certificate: x509.Certificate) -> bytes:
    """Return the DER inside the certificate's SGX extension, or nothing if it has none."""
    try:
        value = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value
    except x509.ExtensionNotFound:
        return b""
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""


def _parse_extension(leaf: x509.Certificate) -> PckExtension:
    data = sgx_extension_of(leaf)
    if not data:
        raise CertificateError("the platform's certificate has no SGX extension, expected 1.2.840.113741.1.13.1")
    top = DerValue.parse(data, where="pck extension").pairs()
    tcb = _need(top, f"{_ARC}.2").pairs()
    flags = top[f"{_ARC}.7"].pairs() if f"{_ARC}.7" in top else {}
    instance = top.get(f"{_ARC}.6")
    return PckExtension(
        ppid=_need(top, f"{_ARC}.1").octets(16),
        cpusvn=_need(tcb, f"{_ARC}.2.18").octets(16),
        components=tuple(_need(tcb, f"{_ARC}.2.{n + 1}").integer(most=255) for n in range(_COMPONENTS)),
        pcesvn=_need(tcb, f"{_ARC}.2.17").integer(),
        pceid=_need(top, f"{_ARC}.3").octets(2),
        fmspc=_need(top, f"{_ARC}.4").octets(6),
        sgx_type=_need(top, f"{_ARC}.5").integer(tag=ENUMERATED, most=255),
        platform_instance_id=instance.octets(16) if instance else b"",
        dynamic_platform=_flag(flags, f"{_ARC}.7.1"),
        cached_keys=_flag(flags, f"{_ARC}.7.2"),
        smt=_flag(flags, f"{_ARC}.7.3"),
    )


def _need(pairs: dict[str, DerValue], oid: str) -> DerValue:
    if oid not in pairs:
        raise MalformedEvidenceError(field="pck extension", got=f"no {oid}", expected="it")
    return pairs[oid]


def _flag(flags: dict[str, DerValue], oid: str) -> str:
    if oid not in flags:
        return "undefined"
    return "true" if flags[oid].boolean() else "false"
