"""Open collateral and check that its signers may speak about what they sign (spec/4-release.md §3.2).

Format: dcap-qvl's QuoteCollateralV3 JSON; members are Intel's PCS v4 documents, byte for byte. Shape, names, windows
and platform are checked here; signatures are verified together with the quote. It never repairs and never fetches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import dcap_qvl
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.evidence.carriage import TeeName
from strongroom.attestation.evidence.pck import PckChain, common_name, parse_certificates, sgx_extension_of
from strongroom.attestation.failures import CertificateError, CollateralError, RevokedError, StaleCollateralError
from strongroom.digests import digest, to_text

MAX_COLLATERAL_CHARACTERS = 4 << 20
_MEMBERS: Final = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
)
_CHAIN = "pck_certificate_chain"
_TCB_INFO_ID: Final = {"sgx": "SGX", "tdx": "TDX"}
_QE_IDENTITY_ID: Final = {"sgx": "QE", "tdx": "TD_QE"}
_SIGNER_CHAIN = 2
_AGAIN = "fetch the collateral of this platform again, from the vendor"
_REFRESH = "fetch the current collateral for this platform, or check the clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDocument:
    """TCB info or QE identity: what it says of itself, and the whole as parsed JSON in ``body``."""

    name: str
    id: str
    issued: datetime
    next_update: datetime
    evaluation_number: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """One CRL: who issued it, its number, its window, and the serial numbers it revokes."""

    name: str
    issuer: x509.Name
    number: int
    issued: datetime
    next_update: datetime
    revoked: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collateral:
    """Endorsements and revocation data for one platform model, opened but not yet verified.

    ``digest`` covers every member, whatever the JSON around them looks like; ``pck_chain`` is empty where the quote
    carries its own; ``engine`` is the same collateral as dcap-qvl reads it. The chain that comes with the PCK CRL is
    not used: the list must be signed by the authority in the platform's own chain.
    """

    digest: str
    tcb_info: SignedDocument
    qe_identity: SignedDocument
    root_crl: RevocationList
    pck_crl: RevocationList
    signers: tuple[tuple[str, tuple[x509.Certificate, ...]], ...]
    pck_chain: bytes
    engine: dcap_qvl.QuoteCollateralV3

    @property
    def fmspc(self) -> str:
        """Return the platform model the TCB info is for, 12 hex digits in upper case."""
        return str(self.tcb_info.body.get("fmspc", "")).upper()

    @property
    def expires(self) -> datetime:
        """Return when the first document or list runs out."""
        return min(part.next_update for part in (self.tcb_info, self.qe_identity, self.root_crl, self.pck_crl))


@lru_cache(maxsize=64)
def parse_collateral(text: str) -> Collateral:
    """Return the collateral in QuoteCollateralV3 JSON; raise CollateralError for anything else.

    Pure, and remembered for the last texts: a verifier appraises many platforms with few sets.
    """
    members = _read_members(text)
    try:
        engine = dcap_qvl.QuoteCollateralV3.from_json(text)
    except ValueError as error:
        raise CollateralError(f"not QuoteCollateralV3 JSON: {error}") from error
    chain = members.get(_CHAIN, "")
    return Collateral(
        digest=to_text(
            digest("strongroom/collateral/v1", *(members[name].encode() for name in _MEMBERS), chain.encode())
        ),
        tcb_info=_read_document(members, "tcb_info"),
        qe_identity=_read_document(members, "qe_identity"),
        root_crl=_read_crl(members, "root_ca_crl"),
        pck_crl=_read_crl(members, "pck_crl"),
        signers=tuple((name, _read_chain(members, f"{name}_issuer_chain")) for name in ("tcb_info", "qe_identity")),
        pck_chain=chain.encode(),
        engine=engine,
    )


def check_collateral(
    collateral: Collateral, *, anchor: TrustAnchor, tee: TeeName, chain: PckChain, now: datetime
) -> None:
    """Raise unless the collateral is of the right shape, for this platform, and current at ``now``.

    CollateralError: shape, signer or platform. StaleCollateralError: a window. CertificateError: another root.
    """
    check_signers(collateral, anchor)
    check_chain(chain, anchor)
    info, identity = collateral.tcb_info, collateral.qe_identity
    for document, expected in ((info, _TCB_INFO_ID[tee]), (identity, _QE_IDENTITY_ID[tee])):
        if document.id != expected:
            raise CollateralError(
                f"{document.name} is for {document.id!r}, expected {expected!r} for a quote of {tee.upper()}",
                hint="SGX and TDX have collateral of their own, even on one machine",
            )
    if collateral.fmspc != chain.extension.fmspc.hex().upper():
        raise CollateralError(
            f"Fmspc mismatch: tcb_info is for platform model {collateral.fmspc}, the quote is from "
            f"{chain.extension.fmspc.hex().upper()}",
            hint="fetch collateral for the quote's own FMSPC",
        )
    if str(info.body.get("pceId", "")).lower() != chain.extension.pceid.hex():
        raise CollateralError(f"tcb_info is for PCE {info.body.get('pceId')!r}, expected {chain.extension.pceid.hex()}")
    issuer = chain.certificates[1].subject
    if collateral.pck_crl.issuer != issuer:
        raise CollateralError(
            f"pck_crl is by {collateral.pck_crl.issuer.rfc4514_string()!r}, expected the platform's authority, "
            f"{issuer.rfc4514_string()!r}",
            hint=f"fetch the revocation list of the {chain.ca} CA",
        )
    _check_windows(collateral, now)
    _check_certificates(collateral, chain, now)


@lru_cache(maxsize=64)
def check_signers(collateral: Collateral, anchor: TrustAnchor) -> None:
    """Raise CollateralError unless every document's signer is a TCB signer, directly under the anchor.

    Intel's root also vouches for every platform's own certificate: without this check a platform could sign the TCB
    info it is judged by. (dcap-qvl 0.7 verifies the chain, not the name.)
    """
    root = _root(anchor)
    for name, chain in collateral.signers:
        signer = chain[0]
        if "SGX TCB Signing" not in common_name(signer) or sgx_extension_of(signer):
            raise CollateralError(
                f"{name} is signed by {common_name(signer)!r}, expected '... SGX TCB Signing'",
                hint="only the vendor's TCB signer may speak about TCBs; a platform's certificate may not",
            )
        if len(chain) != _SIGNER_CHAIN:
            raise CollateralError(
                f"{name}: the signer's chain has {len(chain)} certificates, expected signer and root",
                hint=_AGAIN,
            )
        if signer.issuer != root.subject or not _same_authority(chain[1], root):
            raise CollateralError(
                f"{name}: its signer is certified by {chain[1].subject.rfc4514_string()!r} and not by the trust anchor",
                hint="was this collateral made by a simulated vendor, or by another one?",
            )
    if collateral.root_crl.issuer != root.subject:
        raise CollateralError(
            f"root_ca_crl is by {collateral.root_crl.issuer.rfc4514_string()!r}, expected the trust anchor"
        )


@lru_cache(maxsize=512)
def check_chain(chain: PckChain, anchor: TrustAnchor) -> None:
    """Raise CertificateError unless the platform's chain ends in the anchor, each issuer being the next subject."""
    root = _root(anchor)
    leaf, authority, top = chain.certificates
    if not _same_authority(top, root):
        raise CertificateError(
            f"the platform's chain ends in {top.subject.rfc4514_string()!r}, which is not the trust anchor",
            hint="a simulated TEE's evidence verifies only under its own root (--root), and is then marked simulated"
            if not anchor.simulated
            else "this evidence was made by another vendor than the root given",
        )
    if leaf.issuer != authority.subject or authority.issuer != root.subject:
        raise CertificateError("the platform's chain is out of order: each issuer must be the next subject")
    if sgx_extension_of(authority):
        raise CertificateError("the platform's authority carries an SGX extension, which only platforms do")


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


def _check_certificates(collateral: Collateral, chain: PckChain, now: datetime) -> None:
    """Refuse revoked and expired certificates by name; dcap-qvl does too, but does not say which or why."""
    leaf, authority, _ = chain.certificates
    signers = tuple((f"the signer of {name}", certificates[0]) for name, certificates in collateral.signers)
    by_root = (("the platform's authority", authority), *signers)
    for revocations, certificates in (
        (collateral.root_crl, by_root),
        (collateral.pck_crl, (("the platform's certificate", leaf),)),
    ):
        for whose, certificate in certificates:
            if certificate.serial_number in revocations.revoked:
                raise RevokedError(
                    f"{whose} (serial number {certificate.serial_number:x}) is revoked by {revocations.name}",
                    hint="the vendor withdrew it; nothing it signed can be accepted any more",
                )
            if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
                raise CertificateError(
                    f"{whose} is valid from {certificate.not_valid_before_utc:%FT%TZ} to "
                    f"{certificate.not_valid_after_utc:%FT%TZ}, not at {now:%FT%TZ}",
                    hint="check the clock; an expired platform certificate is renewed by the platform's registration",
                )


def _read_members(text: str) -> dict[str, str]:
    if len(text) > MAX_COLLATERAL_CHARACTERS:
        raise CollateralError(f"collateral has {len(text)} characters, at most {MAX_COLLATERAL_CHARACTERS} expected")
    try:
        members = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CollateralError("collateral is not JSON", hint="expected dcap-qvl's QuoteCollateralV3") from error
    if not isinstance(members, dict):
        raise CollateralError(f"collateral is a JSON {type(members).__name__}, expected an object")
    if members.get(_CHAIN, "") is None:
        del members[_CHAIN]
    for name in (*_MEMBERS, *({_CHAIN} & set(members))):
        if not isinstance(members.get(name), str) or not members[name]:
            raise CollateralError(f"collateral has no {name}, expected a text", hint="all nine members are needed")
    return members


def _read_document(members: dict[str, str], name: str) -> SignedDocument:
    try:
        body = json.loads(members[name])
        return SignedDocument(
            name=name,
            id=str(body["id"]),
            issued=_read_time(body["issueDate"]),
            next_update=_read_time(body["nextUpdate"]),
            evaluation_number=int(body["tcbEvaluationDataNumber"]),
            body=body,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CollateralError(
            f"{name} is not a document of the vendor's service, version 4",
            hint="expected id, issueDate, nextUpdate and tcbEvaluationDataNumber",
        ) from error


def _read_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    return time.astimezone(UTC)


def _read_crl(members: dict[str, str], name: str) -> RevocationList:
    try:
        crl = x509.load_der_x509_crl(bytes.fromhex(members[name]))
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        issuer, issued, next_update = crl.issuer, crl.last_update_utc, crl.next_update_utc
        revoked = frozenset(entry.serial_number for entry in crl)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise CollateralError(f"{name} is not a numbered certificate revocation list in hex DER") from error
    if next_update is None:
        raise CollateralError(f"{name} names no next update, so that it would never expire")
    return RevocationList(
        name=name, issuer=issuer, number=number, issued=issued, next_update=next_update, revoked=revoked
    )


def _read_chain(members: dict[str, str], name: str) -> tuple[x509.Certificate, ...]:
    try:
        return parse_certificates(members[name].encode(), where=name)
    except CertificateError as error:
        raise CollateralError(f"{name} is not a PEM chain") from error


@lru_cache(maxsize=16)
def _root(anchor: TrustAnchor) -> x509.Certificate:
    return x509.load_der_x509_certificate(anchor.root_der)


def _same_authority(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Say whether ``certificate`` is the root or a reissue of it: same name and key, and signed by that key."""
    if certificate == root:
        return True
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return certificate.subject == root.subject and _key(certificate) == _key(root)


def _key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
