"""Appraise evidence: from bytes somebody sent to an attestation result (spec/4-release.md §3).

The order of the checks is fixed and the first failure is final. Nothing in the evidence is trusted before the last
check, REPORTDATA, has passed; and no environment variable or host file changes what is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.claims import Claims
from strongroom.attestation.criteria import EVERYTHING, AppraisalPolicy
from strongroom.attestation.evidence.carriage import Evidence, TeeName
from strongroom.attestation.evidence.event_log import parse_event_log, replay
from strongroom.attestation.evidence.quote import TdxQuote
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError, ReportDataError
from strongroom.attestation.genuineness import AnyClaims, Endorsements, verify_evidence
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.snp import SnpClaims
from strongroom.attestation.tiers import TrustTier
from strongroom.digests import same
from strongroom.errors import UsageError

REPORT_DATA_BYTES = 64
_BOOT_REGISTERS = 3


class CollateralSource(Protocol):
    """Where a verifier gets collateral; chosen by the verifier, never by the attester."""

    def collateral(self, quote: bytes) -> str:
        """Return collateral for the platform of ``quote``; raise CollateralError if there is none.

        QuoteCollateralV3 JSON for SGX and TDX, AMD endorsements (amd_endorsements.FORMAT) for SEV-SNP.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """What a verifier found; exists only for evidence that passed every check.

    ``tier`` is affirming for an up-to-date platform, warning for another accepted status, and contraindicated whenever
    ``simulated``.
    """

    tee: TeeName
    measurement: str
    claims: AnyClaims
    tcb_status: str
    advisories: tuple[str, ...]
    tier: TrustTier
    simulated: bool
    collateral_digest: str
    evaluated_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, for ledgers and screens."""
        return {
            "tee": self.tee,
            "measurement": self.measurement,
            "tcb_status": self.tcb_status,
            "advisories": list(self.advisories),
            "tier": self.tier.value,
            "simulated": self.simulated,
            "collateral_digest": self.collateral_digest,
            "evaluated_at": f"{self.evaluated_at:%FT%TZ}",
            "claims": self.claims.to_json(),
        }


class Verifier:
    """Appraises evidence under one trust anchor and one policy, remembering the collateral it has seen.

    A genuine anchor (INTEL) stands for every compiled-in hardware vendor; a simulated one for itself alone.
    """

    def __init__(
        self,
        anchor: TrustAnchor,
        collateral_source: CollateralSource,
        *,
        memory: CollateralMemory,
        policy: AppraisalPolicy | None = None,
    ) -> None:
        self.anchor = anchor
        self.policy = AppraisalPolicy() if policy is None else policy
        self._source = collateral_source
        self._memory = memory

    def appraise(self, evidence: Evidence, *, report_data: bytes, now: datetime) -> AttestationResult:
        """Return the result for ``evidence``; raise an EvidenceError that names the first step that failed.

        ``report_data``: the 64 bytes that this verifier computed itself from what it knows (binding.report_data).
        """
        if len(report_data) != REPORT_DATA_BYTES:
            raise UsageError(f"report data has {len(report_data)} bytes, expected {REPORT_DATA_BYTES}")
        if now.tzinfo is None:
            raise UsageError("the time of an appraisal needs a zone")

        def remember(endorsements: Endorsements) -> None:
            self._memory.check(endorsements, anchor=self.anchor, now=now)
            self._memory.remember(endorsements, anchor=self.anchor, now=now)

        claims = verify_evidence(
            evidence.quote,
            choose=lambda: self._source.collateral(evidence.quote),
            anchor=self.anchor,
            now=now,
            remember=remember,
        )
        if claims.quote.tee != evidence.tee:
            raise MalformedEvidenceError(
                field="evidence.tee", got=evidence.tee, expected=f"{claims.quote.tee}, which the quote is from"
            )
        objections = self.policy.evaluate(claims, now=now)
        if objections:
            raise objections[0]
        verify_event_log(evidence.event_log, claims)
        if not same(claims.quote.report_data, report_data):
            raise ReportDataError(
                "REPORTDATA is not the value expected of this role, nonce, channel, keys and job",
                hint="the evidence was made for another session, or relayed; ask for fresh evidence",
            )
        status = self.policy.rate(claims)
        return AttestationResult(
            tee=claims.quote.tee,
            measurement=claims.measurement,
            claims=claims,
            tcb_status=status,
            advisories=claims.advisories,
            tier=grade(status, anchor=self.anchor),
            simulated=self.anchor.simulated,
            collateral_digest=claims.collateral_digest,
            evaluated_at=now,
        )


def verify_event_log(event_log: bytes, claims: AnyClaims) -> None:
    """Raise MeasurementError if a log is presented that does not explain RTMR0-RTMR2; an empty one presents nothing.

    RTMR3 belongs to what runs after boot, which the boot log does not see.
    """
    if not event_log:
        return
    quote = claims.quote
    if not isinstance(quote, TdxQuote):
        raise MalformedEvidenceError(
            field="evidence.event_log",
            got=f"{len(event_log)} bytes",
            expected="none: only TDX has registers for a boot event log",
        )
    replayed = replay(parse_event_log(event_log))
    for index in range(_BOOT_REGISTERS):
        if not same(replayed[index], quote.report.rtmrs[index]):
            raise MeasurementError(
                f"the event log replays to {replayed[index].hex()[:16]}.. in RTMR{index}, "
                f"the quote has {quote.report.rtmrs[index].hex()[:16]}..",
                hint="the log was changed, cut short, or is another boot's",
            )


def grade(status: str, *, anchor: TrustAnchor) -> TrustTier:
    """Return the tier that a rated platform deserves; under a simulated vendor's root always contraindicated."""
    if anchor.simulated:
        return TrustTier.CONTRAINDICATED
    return TrustTier.AFFIRMING if status == "UpToDate" else TrustTier.WARNING


__all__ = [
    "EVERYTHING",
    "INTEL",
    "AppraisalPolicy",
    "AttestationResult",
    "Claims",
    "CollateralMemory",
    "CollateralSource",
    "SnpClaims",
    "TrustAnchor",
    "Verifier",
    "grade",
    "verify_event_log",
]
