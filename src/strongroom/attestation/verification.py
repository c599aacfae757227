"""Verify that a quote is genuine, intact, not revoked and not of a debug workload (spec/4-release.md §3.1-§3.6).

The cryptography is dcap-qvl's; what it is known to leave open is closed here, before and after. It applies no policy:
what comes back is true, which is not to say that it is good enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.causes import name_cause
from strongroom.attestation.certification import verify_cryptography
from strongroom.attestation.claims import Claims
from strongroom.attestation.collateral import Collateral
from strongroom.attestation.endorsements import check_certificates, verify_collateral
from strongroom.attestation.evidence.pck import PckChain, parse_pck_chain
from strongroom.attestation.evidence.quote import Quote, SgxQuote, parse_quote
from strongroom.attestation.failures import AttributesError, CertificateError, DebugEvidenceError, TcbError
from strongroom.attestation.tcb import Shortfall, find_shortfall
from strongroom.errors import EvidenceError

SGX_DEBUG = 1 << 1
TD_DEBUG = 1 << 0
TD_SEPT_VE_DISABLE = 1 << 28
TD_MIGRATABLE = 1 << 29


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A quote, not yet verified, and the collateral to verify it with, which is."""

    quote: Quote
    chain: PckChain
    collateral: Collateral


def open_evidence(data: bytes, *, choose: Callable[[Quote], Collateral], anchor: TrustAnchor, now: datetime) -> Opened:
    """Return ``data`` parsed, with the collateral that ``choose`` picks for it, the latter verified.

    Raise MalformedEvidenceError, CertificateError, CollateralError or StaleCollateralError.
    """
    quote = parse_quote(data)
    collateral = choose(quote)
    own = quote.signature.pck_chain
    if own and collateral.without_chain is not None:  # else one machine's chain would shut out all others of its model
        collateral = collateral.without_chain
    pem = own or collateral.pck_chain
    if not pem:
        raise CertificateError(
            f"neither the quote (certification data of type {quote.signature.certification_type}) nor the collateral "
            "carries the platform's certificate chain",
            hint="fetch collateral with a pck_certificate_chain for this platform",
        )
    chain = parse_pck_chain(pem)
    verify_collateral(collateral, anchor=anchor, tee=quote.tee, chain=chain, now=now)
    return Opened(quote=quote, chain=chain, collateral=collateral)


def verify_opened(opened: Opened, data: bytes, *, anchor: TrustAnchor, now: datetime) -> Claims:
    """Return the claims of a quote whose signatures, platform and attributes hold; raise an EvidenceError otherwise."""
    quote, extension = opened.quote, opened.chain.extension
    check_certificates(opened.collateral, chain=opened.chain, now=now)
    try:
        certified = verify_cryptography(quote, data, collateral=opened.collateral, anchor=anchor, now=now)
    except ValueError as error:
        raise _explain(str(error), opened) from error
    if (certified.ppid, certified.cpusvn, certified.fmspc) != (extension.ppid, extension.cpusvn, extension.fmspc):
        raise CertificateError("the platform's certificate reads differently in two parsers, expected one meaning")
    _check_attributes(quote)
    return Claims(
        quote=quote,
        platform=extension,
        tcb_status=certified.tcb_status,
        advisories=certified.advisories,
        tcb_date=certified.tcb_date,
        qe_status=certified.qe_status,
        qe_tcb_date=certified.qe_tcb_date,
        evaluation_number=certified.evaluation_number,
        collateral_digest=opened.collateral.digest,
        collateral_issued=min(opened.collateral.tcb_info.issued, opened.collateral.qe_identity.issued),
        expires=opened.collateral.expires,
        remedy="" if certified.tcb_status == "UpToDate" else _shortfall(opened, at_best=True).remedy,
    )


def _check_attributes(quote: Quote) -> None:
    """Refuse debug and migratable workloads ourselves too: this must not rest on one library's default."""
    if isinstance(quote, SgxQuote):
        if quote.report.flags & SGX_DEBUG:
            raise DebugEvidenceError("Debug mode is enabled in the enclave's attributes")
        return
    attributes = quote.report.td_attributes
    if attributes & TD_DEBUG:
        raise DebugEvidenceError("Debug mode is enabled in the trust domain's attributes")
    if not attributes & TD_SEPT_VE_DISABLE or attributes & TD_MIGRATABLE or any(quote.report.mrservicetd):
        raise AttributesError(
            "the trust domain is migratable, bound to a service TD, or lets its host inject page faults"
        )


def _explain(message: str, opened: Opened) -> EvidenceError:
    """Return the error for what dcap-qvl said; where firmware is too old, with each component that is."""
    said, failure, hint = name_cause(message)
    if failure is not TcbError:
        return failure(said, hint=hint)
    shortfall = _shortfall(opened, at_best=False)
    lacks = f": {'; '.join(shortfall.lacks)}" if shortfall.lacks and "No matching" in said else ""
    return TcbError(said + lacks, hint=shortfall.remedy or hint)


def _shortfall(opened: Opened, *, at_best: bool) -> Shortfall:
    quote = opened.quote
    return find_shortfall(
        opened.collateral.tcb_info.body,
        extension=opened.chain.extension,
        tee_tcb_svn=b"" if isinstance(quote, SgxQuote) else quote.report.tee_tcb_svn,
        at_best=at_best,
    )
