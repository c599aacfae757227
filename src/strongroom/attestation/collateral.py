"""Open collateral: the vendor's endorsements and revocation lists for one platform model (spec/4-release.md §3.2).

Format: dcap-qvl's QuoteCollateralV3 JSON; members are Intel's PCS v4 documents, byte for byte. It verifies nothing,
never repairs and never fetches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import dcap_qvl
from cryptography import x509

from strongroom.attestation.evidence.pck import UNREADABLE, parse_certificates
from strongroom.attestation.failures import CertificateError, CollateralError
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedDocument:
    """TCB info or QE identity: what it says of itself, the whole as parsed JSON in ``body``, and who signed ``text``.

    ``signature`` is r then s; ``chain`` starts with the signer.
    """

    name: str
    id: str
    issued: datetime
    next_update: datetime
    evaluation_number: int
    body: dict[str, Any]
    text: bytes
    signature: bytes
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """One CRL: who issued it, its number, its window, the serial numbers it revokes, and itself."""

    name: str
    issuer: x509.Name
    number: int
    issued: datetime
    next_update: datetime
    revoked: frozenset[int]
    signed: x509.CertificateRevocationList


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collateral:
    """Endorsements and revocation data for one platform model, opened but not yet verified.

    ``digest`` covers every member, whatever the JSON around them looks like; ``pck_chain``, of one platform, is for
    quotes that carry none, and ``without_chain`` the same collateral for those that carry their own (None if it has no
    chain); ``engine`` is the same collateral as dcap-qvl reads it. The chain that comes with the PCK CRL is
    not used: the list must be signed by the authority in the platform's own chain.
    """

    digest: str
    tcb_info: SignedDocument
    qe_identity: SignedDocument
    root_crl: RevocationList
    pck_crl: RevocationList
    pck_chain: bytes
    engine: dcap_qvl.QuoteCollateralV3
    without_chain: Collateral | None = None

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
    chain = members.get(_CHAIN, "")
    engine = _read_engine({name: members[name] for name in _MEMBERS})  # first: it refuses text that is no Unicode
    with_chain = _read_engine({name: members[name] for name in (*_MEMBERS, _CHAIN)}) if chain else None
    plain = Collateral(
        digest=to_text(
            digest("strongroom/collateral/v1", *(members[name].encode() for name in _MEMBERS), chain.encode())
        ),
        tcb_info=_read_document(members, "tcb_info"),
        qe_identity=_read_document(members, "qe_identity"),
        root_crl=_read_crl(members, "root_ca_crl"),
        pck_crl=_read_crl(members, "pck_crl"),
        pck_chain=b"",
        engine=engine,
    )
    if with_chain is None:
        return plain
    return replace(plain, pck_chain=chain.encode(), engine=with_chain, without_chain=plain)


def _read_engine(members: dict[str, str]) -> dcap_qvl.QuoteCollateralV3:
    try:
        return dcap_qvl.QuoteCollateralV3.from_json(json.dumps(members))
    except ValueError as error:
        raise CollateralError(f"not QuoteCollateralV3 JSON: {error}") from error


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
            text=members[name].encode(),
            signature=bytes.fromhex(members[f"{name}_signature"]),
            chain=_read_chain(members, f"{name}_issuer_chain"),
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
    except UNREADABLE as error:
        raise CollateralError(f"{name} is not a numbered certificate revocation list in hex DER") from error
    if next_update is None:
        raise CollateralError(f"{name} names no next update, so that it would never expire")
    return RevocationList(
        name=name, issuer=issuer, number=number, issued=issued, next_update=next_update, revoked=revoked, signed=crl
    )


def _read_chain(members: dict[str, str], name: str) -> tuple[x509.Certificate, ...]:
    try:
        return parse_certificates(members[name].encode(), where=name)
    except CertificateError as error:
        raise CollateralError(f"{name} is not a PEM chain") from error
