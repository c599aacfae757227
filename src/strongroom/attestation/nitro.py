"""Verify that an AWS Nitro attestation document is genuine, current and not of a debug enclave (spec §3.14).

AWS publishes no TCB levels and its certificates live hours to days, so there is neither collateral nor a revocation
list to consult; the claims say so. It applies no policy.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from strongroom.attestation.amd_endorsements import load_certificate
from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.evidence.nitro import NitroDocument
from strongroom.attestation.evidence.pck import UNREADABLE
from strongroom.attestation.failures import CertificateError, DebugEvidenceError, QuoteSignatureError
from strongroom.attestation.raw_signature import is_signed, read_numbers
from strongroom.attestation.snp import UNRATED
from strongroom.digests import bytes_digest

# SHA-256 of the DER of aws.nitro-enclaves, at https://aws-nitro-enclaves.amazonaws.com/AWS_NitroEnclaves_Root-G1.zip
AWS_NITRO_ROOT_SHA256: Final = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
_IMAGE_PCRS: Final = (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroClaims:
    """Everything a verified document asserts; the shape of :class:`claims.Claims`."""

    quote: NitroDocument
    expires: datetime

    @property
    def tcb_status(self) -> str:
        """Return ``Unrated``: AWS keeps the hypervisor current and publishes no levels."""
        return UNRATED

    @property
    def advisories(self) -> tuple[str, ...]:
        """Return none."""
        return ()

    @property
    def measurement(self) -> str:
        """Return the canonical text of what was loaded."""
        return self.quote.measurement

    @property
    def hardware_ids(self) -> tuple[str, ...]:
        """Return ``module:<EC2 instance and enclave>``."""
        return (f"module:{self.quote.module_id}",)

    @property
    def collateral_digest(self) -> str:
        """Return the digest of the chain in the document, which is all there is."""
        return bytes_digest(b"".join((self.quote.certificate, *self.quote.cabundle)))

    def to_json(self) -> dict[str, Any]:
        """Return the claims as JSON values."""
        return {
            "tee": "nitro",
            "quote_version": 1,
            "measurement": self.measurement,
            "report_data": self.quote.report_data.hex(),
            "body": describe_nitro(self.quote),
            "platform": {"module_id": self.quote.module_id},
            "tcb": {"status": UNRATED, "advisories": []},
            "collateral": {
                "digest": self.collateral_digest,
                "expires": f"{self.expires:%FT%TZ}",
                "revocation": "not consulted: the certificates live hours to days",
            },
        }


def describe_nitro(document: NitroDocument) -> dict[str, Any]:
    """Return every field of the document; bytes in hex."""
    return {
        **{f"pcr{number}": value.hex() for number, value in document.pcrs.items()},
        "module_id": document.module_id,
        "timestamp": f"{document.timestamp:%FT%TZ}",
        "public_key": document.public_key.hex(),
        "user_data": document.user_data.hex(),
        "nonce": document.nonce.hex(),
    }


def verify_nitro(document: NitroDocument, *, anchor: TrustAnchor, now: datetime) -> NitroClaims:
    """Return the claims of a document whose chain and signature hold; raise an EvidenceError otherwise.

    A genuine anchor stands for AWS's pinned root, a simulated one for itself.
    """
    chain = [load_certificate(der, where="cabundle") for der in document.cabundle]
    leaf = load_certificate(document.certificate, where="certificate")
    _check_root(document.cabundle[0], anchor)
    path = [*chain, leaf]
    for depth, (issuer, certificate) in enumerate(itertools.pairwise(path)):
        _check_link(issuer, certificate, below=len(path) - 2 - depth)
    for certificate in path:
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not first <= now <= last:
            raise CertificateError(
                f"{certificate.subject.rfc4514_string()[:60]!r} is valid from {first:%FT%TZ} to {last:%FT%TZ}, "
                f"not at {now:%FT%TZ}",
                hint="an enclave's certificate lives three hours: ask for a fresh document, or check the clock",
            )
    _verify_signature(document, leaf)
    if not any(any(document.pcrs[number]) for number in _IMAGE_PCRS):
        raise DebugEvidenceError(
            "Debug mode is enabled: PCR0, PCR1 and PCR2 are all zero",
            hint="start the enclave without --debug-mode: its parent can read its console",
        )
    return NitroClaims(quote=document, expires=min(one.not_valid_after_utc for one in path))


def _check_root(der: bytes, anchor: TrustAnchor) -> None:
    found = hashlib.sha256(der).hexdigest()
    expected = anchor.sha256 if anchor.simulated else AWS_NITRO_ROOT_SHA256
    if found != expected:
        raise CertificateError(
            f"the chain starts at {found[:16]}.., expected the trust anchor {expected[:16]}..",
            hint="the document was made by somebody else than AWS's hypervisor",
        )


def _check_link(issuer: x509.Certificate, certificate: x509.Certificate, *, below: int) -> None:
    """Check that ``issuer`` may and did sign ``certificate``, with ``below`` authorities following it."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        allowed = constraints.ca and usage.key_cert_sign
        if constraints.path_length is not None and constraints.path_length < below:
            allowed = False
        certificate.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature) as error:
        raise CertificateError(
            "the document's chain does not hold: each certificate must be signed by the one before"
        ) from error
    if not allowed:
        raise CertificateError(f"{issuer.subject.rfc4514_string()[:60]!r} may not issue certificates at its place")


def _verify_signature(document: NitroDocument, leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CertificateError("the document's certificate is not a P-384 key")
    if not is_signed(document.signed, read_numbers(document.signature), key, SHA384()):
        raise QuoteSignatureError(
            "the document's certificate did not sign it", hint="the document was changed after it was signed"
        )
