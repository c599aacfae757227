"""Verify a quote's cryptography, remembering for an hour what vouches for its key (spec/4-release.md §3.5).

A platform certifies its attestation key once and copies the same certification into every quote it makes. Of a quote
whose header, certification and platform (all that dcap-qvl's verdict rests on, but one signature) were verified before
with the same collateral and root, that one signature is left to verify, and it is verified of every quote. Whatever
else differs, dcap-qvl verifies the whole anew. What depends on the time (windows, validity, revocation) is asked of
every quote by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import dcap_qvl
import pydantic_core
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral import Collateral
from strongroom.attestation.evidence.quote import Quote, QuoteHeader, QuoteSignature
from strongroom.attestation.evidence.report import EnclaveReport
from strongroom.attestation.failures import QuoteSignatureError

REMEMBERED: Final = 1024
_HOUR: Final = 3600
_HALF: Final = 32
_UNCOMPRESSED: Final = b"\x04"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What dcap-qvl found out about the platform and the quoting enclave that stand behind an attestation key."""

    key: ec.EllipticCurvePublicKey
    ppid: bytes
    cpusvn: bytes
    fmspc: bytes
    tcb_status: str
    advisories: tuple[str, ...]
    tcb_date: datetime
    qe_status: str
    qe_tcb_date: datetime
    evaluation_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """A quote as it was presented; equal to those of the same hour, key and platform, whatever their workload."""

    hour: int
    header: QuoteHeader
    platform: tuple[bytes | int, ...]
    certification: QuoteSignature
    quote: bytes = field(compare=False)
    seconds: int = field(compare=False)


def verify_cryptography(
    quote: Quote, data: bytes, *, collateral: Collateral, anchor: TrustAnchor, now: datetime
) -> Certified:
    """Return who stands behind ``quote``, parsed from ``data``, whose own signature is verified each time.

    Raise ValueError with dcap-qvl's words, or QuoteSignatureError.
    """
    seconds = int(now.timestamp())
    presented = Presented(
        hour=seconds // _HOUR,
        header=quote.header,
        platform=_platform_part(quote),
        certification=replace(quote.signature, signature=b""),
        quote=data[: quote.size],
        seconds=seconds,
    )
    certified = certify(presented, collateral, anchor)
    raw = quote.signature.signature
    signature = encode_dss_signature(int.from_bytes(raw[:_HALF], "big"), int.from_bytes(raw[_HALF:], "big"))
    try:
        certified.key.verify(signature, quote.signed, ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise QuoteSignatureError(
            "the attestation key did not sign this header and body",
            hint="the quote was changed after it was signed, or put together from two",
        ) from error
    return certified


def _platform_part(quote: Quote) -> tuple[bytes | int, ...]:
    """Return what the body says of anything but the workload, its loader's choices and its report data."""
    report = quote.report
    if isinstance(report, EnclaveReport):
        return (report.cpusvn, report.miscselect, report.flags, report.xfrm, report.reserved)
    return (
        report.tee_tcb_svn,
        report.mrseam,
        report.mrsignerseam,
        report.seam_attributes,
        report.td_attributes,
        report.xfam,
        report.tee_tcb_svn2,
        report.mrservicetd,
    )


@lru_cache(maxsize=REMEMBERED)
def certify(presented: Presented, collateral: Collateral, anchor: TrustAnchor) -> Certified:
    """Return what dcap-qvl says of the whole quote; a refusal is raised, and so never remembered."""
    verified = _engine(anchor).verify_with_policy(
        presented.quote, collateral.engine, presented.seconds, dcap_qvl.QuotePolicy.claims_only(presented.seconds)
    )
    facts = pydantic_core.from_json(verified.to_json())
    platform, enclave = facts["platform"], facts["qe"]["tcb_level"]
    return Certified(
        key=ec.EllipticCurvePublicKey.from_encoded_point(
            ec.SECP256R1(), _UNCOMPRESSED + presented.certification.attestation_key
        ),
        ppid=bytes(platform["pck"]["ppid"]),
        cpusvn=bytes(platform["pck"]["cpu_svn"]),
        fmspc=bytes(platform["pck"]["fmspc"]),
        tcb_status=facts["tcb"]["status"],
        advisories=tuple(facts["tcb"]["advisory_ids"]),
        tcb_date=datetime.fromtimestamp(platform["tcb_date_tag"], UTC),
        qe_status=enclave["tcbStatus"],
        qe_tcb_date=datetime.fromisoformat(enclave["tcbDate"]).astimezone(UTC),
        evaluation_number=facts["tcb"]["eval_data_number"],
    )


@lru_cache(maxsize=16)
def _engine(anchor: TrustAnchor) -> dcap_qvl.QuoteVerifier:
    return dcap_qvl.QuoteVerifier(anchor.root_der)
