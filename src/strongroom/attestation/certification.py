"""Verify a quote's cryptography, remembering for an hour what vouches for its key (spec/4-release.md §3.5).

A platform certifies its attestation key once and copies the same certification into every quote it makes. Of a quote
whose header, certification and platform (all that dcap-qvl's verdict rests on, but one signature) were verified before
with the same collateral and root, that one signature is left to verify, and it is verified of every quote. Whatever
else differs, dcap-qvl verifies the whole anew. What depends on the time (windows, validity, revocation) is asked of
every quote by the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from threading import Lock
from typing import Final

import dcap_qvl
import pydantic_core
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from strongroom.attestation.anchors import TrustAnchor
from strongroom.attestation.collateral import Collateral
from strongroom.attestation.evidence.quote import Quote
from strongroom.attestation.evidence.report import EnclaveReport
from strongroom.attestation.failures import QuoteSignatureError
from strongroom.attestation.raw_signature import is_signed, read_numbers
from strongroom.digests import digest

REMEMBERED: Final = 1024
_HOUR: Final = 3600
_HEADER: Final = 48
_BEFORE_CERTIFICATION: Final = 4 + 64  # the section's length, and the one signature that differs
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


class Certifications:
    """What was found out about the platforms seen last, by digest; small whatever was presented, shared by threads.

    Nothing of a quote or of collateral is held: a platform may pad its certification, and a service has many sets.
    """

    def __init__(self) -> None:
        self.hits = 0
        self._found: OrderedDict[bytes, Certified] = OrderedDict()
        self._lock = Lock()

    def recall(self, name: bytes) -> Certified | None:
        """Return what is remembered under ``name``, if anything is."""
        with self._lock:
            found = self._found.get(name)
            if found is not None:
                self._found.move_to_end(name)
                self.hits += 1
            return found

    def remember(self, name: bytes, certified: Certified) -> None:
        """Remember ``certified``; what was not asked for longest gives way."""
        with self._lock:
            self._found[name] = certified
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)

    def forget(self) -> None:
        """Forget all of it, as a process that has just started."""
        with self._lock:
            self._found.clear()

    def __len__(self) -> int:
        return len(self._found)


CERTIFICATIONS: Final = Certifications()


def verify_cryptography(
    quote: Quote, data: bytes, *, collateral: Collateral, anchor: TrustAnchor, now: datetime
) -> Certified:
    """Return who stands behind ``quote``, parsed from ``data``, whose own signature is verified each time.

    Raise ValueError with dcap-qvl's words, or QuoteSignatureError.
    """
    seconds = int(now.timestamp())
    name = _name(quote, data, collateral=collateral, anchor=anchor, hour=seconds // _HOUR)
    certified = CERTIFICATIONS.recall(name)
    if certified is None:  # A refusal is raised, and so never remembered.
        certified = _certify(quote, data[: quote.size], collateral=collateral, anchor=anchor, seconds=seconds)
        CERTIFICATIONS.remember(name, certified)
    if not is_signed(quote.signed, read_numbers(quote.signature.signature), certified.key, SHA256()):
        raise QuoteSignatureError(
            "the attestation key did not sign this header and body",
            hint="the quote was changed after it was signed, or put together from two",
        )
    return certified


def _name(quote: Quote, data: bytes, *, collateral: Collateral, anchor: TrustAnchor, hour: int) -> bytes:
    """Return a digest of all that dcap-qvl's verdict rests on, but the signature; the same for no other such case."""
    return digest(
        "strongroom/certified-platform/v1",
        hour.to_bytes(8, "big", signed=True),
        anchor.root_der,
        collateral.digest.encode(),
        collateral.pck_chain,  # with and without it, collateral has the same digest
        quote.signed[:_HEADER],
        data[len(quote.signed) + _BEFORE_CERTIFICATION : quote.size],
        *_platform_part(quote),
    )


def _platform_part(quote: Quote) -> tuple[bytes, ...]:
    """Return what the body says of anything but the workload, its loader's choices and its report data."""
    report = quote.report
    if isinstance(report, EnclaveReport):
        numbers = (report.miscselect, report.flags, report.xfrm)
        return (report.cpusvn, *(number.to_bytes(8, "big") for number in numbers), report.reserved)
    return (
        report.tee_tcb_svn,
        report.mrseam,
        report.mrsignerseam,
        report.seam_attributes,
        report.td_attributes.to_bytes(8, "big"),
        report.xfam.to_bytes(8, "big"),
        report.tee_tcb_svn2,
        report.mrservicetd,
    )


def _certify(quote: Quote, data: bytes, *, collateral: Collateral, anchor: TrustAnchor, seconds: int) -> Certified:
    """Return what dcap-qvl says of the whole quote; raise ValueError if it refuses it."""
    verified = _engine(anchor).verify_with_policy(
        data, collateral.engine, seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
    )
    facts = pydantic_core.from_json(verified.to_json())
    platform, enclave = facts["platform"], facts["qe"]["tcb_level"]
    return Certified(
        key=ec.EllipticCurvePublicKey.from_encoded_point(
            ec.SECP256R1(), _UNCOMPRESSED + quote.signature.attestation_key
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
