"""Verify that collateral and a platform's chain are the trust anchor's own words (spec/4-release.md §3.2-§3.3).

dcap-qvl verifies the same signatures again with each quote; done here once per document, they let a verifier remember
collateral apart from any quote, and name what is wrong. What the library does not check is who may sign what.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral import Collateral, SignedDocument
from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.evidence.pck import UNREADABLE, PckChain, common_name, sgx_extension_of
from strongroom.attestation.failures import CertificateError, CollateralError, RevokedError, StaleCollateralError
from strongroom.attestation.raw_signature import is_signed, read_numbers

_TCB_INFO_ID: Final = {"sgx": "SGX", "tdx": "TDX"}
_QE_IDENTITY_ID: Final = {"sgx": "QE", "tdx": "TD_QE"}
_SIGNER_CHAIN = 2
_SIGNATURE_BYTES = 64
_AGAIN = "fetch the collateral of this platform again, from the vendor"
_REFRESH = "fetch the current collateral for this platform, or check the clock"


def verify_collateral(
    collateral: Collateral, *, anchor: TrustAnchor, tee: TeeName, chain: PckChain, now: datetime
) -> None:
    """Raise unless the collateral is signed under the anchor, for this TEE and platform, and current at ``now``.

    CollateralError: signer or platform. StaleCollateralError: a window. CertificateError: ``chain`` leads elsewhere.
    """
    verify_signers(collateral, anchor)
    verify_chain(chain, anchor)
    _verify_pck_crl(collateral, chain)
    _check_platform(collateral, tee, chain)
    _check_windows(collateral, now)


def check_certificates(collateral: Collateral, *, chain: PckChain, now: datetime) -> None:
    """Raise RevokedError or CertificateError if a certificate is revoked, or not valid at ``now``."""
    for whose, first, last in _read_validity(collateral, chain):
        if not first <= now <= last:
            raise CertificateError(
                f"{whose} is valid from {first:%FT%TZ} to {last:%FT%TZ}, not at {now:%FT%TZ}",
                hint="check the clock; an expired platform certificate is renewed by registering the platform again",
            )


@lru_cache(maxsize=512)
def _read_validity(collateral: Collateral, chain: PckChain) -> tuple[tuple[str, datetime, datetime], ...]:
    """Return from when to when each certificate is valid; raise RevokedError if one is revoked."""
    leaf, authority, _ = chain.certificates
    root_crl, pck_crl = collateral.root_crl, collateral.pck_crl
    validity = []
    for whose, certificate, revocations in (
        ("the platform's certificate", leaf, pck_crl),
        ("the platform's authority", authority, root_crl),
        ("the signer of tcb_info", collateral.tcb_info.chain[0], root_crl),
        ("the signer of qe_identity", collateral.qe_identity.chain[0], root_crl),
    ):
        if certificate.serial_number in revocations.revoked:
            raise RevokedError(
                f"{whose} (serial number {certificate.serial_number:x}) is revoked by {revocations.name}",
                hint="the vendor withdrew it; nothing it signed can be accepted any more",
            )
        validity.append((whose, certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    return tuple(validity)


@lru_cache(maxsize=64)
def verify_signers(collateral: Collateral, anchor: TrustAnchor) -> None:
    """Raise CollateralError unless TCB info, QE identity and root CRL are signed by those who may.

    Intel's root also vouches for every platform's own certificate: without the check of names a platform could sign
    the TCB info it is judged by. (dcap-qvl 0.7 verifies the chain, not the name.)
    """
    root = _root(anchor)
    for document in (collateral.tcb_info, collateral.qe_identity):
        _verify_document(document, root)
    if collateral.root_crl.issuer != root.subject:
        raise CollateralError(
            f"root_ca_crl is by {collateral.root_crl.issuer.rfc4514_string()!r}, expected the trust anchor"
        )
    _verify_crl(collateral.root_crl.signed, root, name="root_ca_crl")


@lru_cache(maxsize=512)
def verify_chain(chain: PckChain, anchor: TrustAnchor) -> None:
    """Raise CertificateError unless each certificate is signed by the next, and the last is the anchor."""
    root = _root(anchor)
    leaf, authority, top = chain.certificates
    if not _same_authority(top, root):
        raise CertificateError(
            f"the platform's chain ends in {top.subject.rfc4514_string()!r}, which is not the trust anchor",
            hint="this evidence was made by another vendor than the root given"
            if anchor.simulated
            else "a simulated TEE's evidence verifies only under its own root (--root), and is then marked simulated",
        )
    if not _issued(leaf, authority) or not _issued(authority, root):
        raise CertificateError(
            "the platform's chain does not hold: each certificate must be signed by the next",
            hint="the chain was changed, put together from two, or is out of order",
        )
    if sgx_extension_of(authority):
        raise CertificateError("the platform's authority carries an SGX extension, which only platforms do")


def _verify_document(document: SignedDocument, root: x509.Certificate) -> None:
    name, signer = document.name, document.chain[0]
    if "SGX TCB Signing" not in common_name(signer) or sgx_extension_of(signer):
        raise CollateralError(
            f"{name} is signed by {common_name(signer)!r}, expected '... SGX TCB Signing'",
            hint="only the vendor's TCB signer may speak about TCBs; a platform's certificate may not",
        )
    if len(document.chain) != _SIGNER_CHAIN:
        raise CollateralError(
            f"{name}: the signer's chain has {len(document.chain)} certificates, expected signer and root", hint=_AGAIN
        )
    if not _same_authority(document.chain[1], root) or not _issued(signer, root):
        raise CollateralError(
            f"{name}: its signer is certified by {signer.issuer.rfc4514_string()!r} and not by the trust anchor",
            hint="was this collateral made by a simulated vendor, or by another one?",
        )
    if not _signed(document, signer):
        raise CollateralError(
            f"the signature of {name} does not hold", hint="it was changed, or serialised anew: " + _AGAIN
        )


@lru_cache(maxsize=512)
def _verify_pck_crl(collateral: Collateral, chain: PckChain) -> None:
    authority = chain.certificates[1]
    if collateral.pck_crl.issuer != authority.subject:
        raise CollateralError(
            f"pck_crl is by {collateral.pck_crl.issuer.rfc4514_string()!r}, expected the platform's authority, "
            f"{authority.subject.rfc4514_string()!r}",
            hint=f"fetch the revocation list of the {chain.ca} CA",
        )
    _verify_crl(collateral.pck_crl.signed, authority, name="pck_crl")


def _verify_crl(crl: x509.CertificateRevocationList, issuer: x509.Certificate, *, name: str) -> None:
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(key):
        raise CollateralError(f"the signature of {name} does not hold", hint=_AGAIN)


@lru_cache(maxsize=512)
def _check_platform(collateral: Collateral, tee: TeeName, chain: PckChain) -> None:
    info, identity = collateral.tcb_info, collateral.qe_identity
    for document, expected in ((info, _TCB_INFO_ID[tee]), (identity, _QE_IDENTITY_ID[tee])):
        if document.id != expected:
            raise CollateralError(
                f"{document.name} is for {document.id!r}, expected {expected!r} for a quote of {tee.upper()}",
                hint="SGX and TDX have collateral of their own, even on one machine",
            )
    fmspc, pceid = chain.extension.fmspc.hex().upper(), chain.extension.pceid.hex()
    if collateral.fmspc != fmspc:
        raise CollateralError(
            f"Fmspc mismatch: tcb_info is for platform model {collateral.fmspc}, the quote is from {fmspc}",
            hint="fetch collateral for the quote's own FMSPC",
        )
    if str(info.body.get("pceId", "")).lower() != pceid:
        raise CollateralError(f"tcb_info is for PCE {info.body.get('pceId')!r}, expected {pceid}", hint=_AGAIN)


def _check_windows(collateral: Collateral, now: datetime) -> None:
    for part in (collateral.tcb_info, collateral.qe_identity, collateral.root_crl, collateral.pck_crl):
        if now < part.issued:
            raise StaleCollateralError(
                f"{part.name} was issued at {part.issued:%FT%TZ}, after {now:%FT%TZ}: its issue date is in the future",
                hint=_REFRESH,
            )
        if now > part.next_update:
            raise StaleCollateralError(
                f"{part.name} expired at {part.next_update:%FT%TZ}, before {now:%FT%TZ}", hint=_REFRESH
            )


@lru_cache(maxsize=16)
def _root(anchor: TrustAnchor) -> x509.Certificate:
    return x509.load_der_x509_certificate(anchor.root_der)


def _same_authority(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Say whether ``certificate`` is the root or a reissue of it: same name and key, and signed by that key."""
    return certificate == root or (
        certificate.subject == root.subject
        and certificate.public_key() == root.public_key()
        and _issued(certificate, root)
    )


def _signed(document: SignedDocument, signer: x509.Certificate) -> bool:
    """Say whether ``signer``'s P-256 key signed the document's text."""
    key, raw = signer.public_key(), document.signature
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(raw) != _SIGNATURE_BYTES:
        return False
    return is_signed(document.text, read_numbers(raw), key, SHA256())


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Say whether ``issuer`` is named as, and signed as, the issuer of ``certificate``."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True
