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
from strongroom.attestation.collateral import parse_collateral
from strongroom.attestation.criteria import EVERYTHING, AppraisalPolicy
from strongroom.attestation.evidence.carriage import Evidence, TeeName
from strongroom.attestation.evidence.event_log import parse_event_log, replay
from strongroom.attestation.evidence.quote import Quote, TdxQuote
from strongroom.attestation.failures import MalformedEvidenceError, MeasurementError, ReportDataError
from strongroom.attestation.memory import CollateralMemory
from strongroom.attestation.tiers import TrustTier
from strongroom.attestation.verification import open_evidence, verify_opened
from strongroom.digests import same
from strongroom.errors import UsageError

REPORT_DATA_BYTES = 64
_BOOT_REGISTERS = 3


class CollateralSource(Protocol):
    """Where a verifier gets collateral; chosen by the verifier, never by the attester."""

    def collateral(self, quote: bytes) -> str:
        """Return QuoteCollateralV3 JSON for the platform of ``quote``; raise CollateralError if there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """What a verifier found; exists only for evidence that passed every check.

    ``tier`` is affirming for an up-to-date platform, warning for another accepted status, and contraindicated whenever
    ``simulated``.
    """

    tee: TeeName
    measurement: str
    claims: Claims
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
    """Appraises evidence under one trust anchor and one policy, remembering the collateral it has seen."""

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
        opened = open_evidence(
            evidence.quote,
            choose=lambda _: parse_collateral(self._source.collateral(evidence.quote)),
            anchor=self.anchor,
            now=now,
        )
        if opened.quote.tee != evidence.tee:
            raise MalformedEvidenceError(
                field="evidence.tee", got=evidence.tee, expected=f"{opened.quote.tee}, which the quote is from"
            )
        self._memory.check(opened.collateral, anchor=self.anchor, now=now)
        self._memory.remember(opened.collateral, anchor=self.anchor, now=now)  # also if it revokes this very platform
        claims = verify_opened(opened, evidence.quote, anchor=self.anchor, now=now)
        objections = self.policy.evaluate(claims, now=now)
        if objections:
            raise objections[0]
        _verify_event_log(evidence, opened.quote)
        if not same(opened.quote.report_data, report_data):
            raise ReportDataError(
                "REPORTDATA is not the value expected of this role, nonce, channel, keys and job",
                hint="the evidence was made for another session, or relayed; ask for fresh evidence",
            )
        return AttestationResult(
            tee=opened.quote.tee,
            measurement=claims.measurement,
            claims=claims,
            tcb_status=claims.tcb_status,
            advisories=claims.advisories,
            tier=grade(claims, anchor=self.anchor),
            simulated=self.anchor.simulated,
            collateral_digest=claims.collateral_digest,
            evaluated_at=now,
        )


def _verify_event_log(evidence: Evidence, quote: Quote) -> None:
    """Raise MeasurementError if a log is presented that does not explain RTMR0-RTMR2.

    RTMR3 belongs to what runs after boot, which the boot log does not see.
    """
    if not evidence.event_log:
        return
    if not isinstance(quote, TdxQuote):
        raise MalformedEvidenceError(
            field="evidence.event_log", got=f"{len(evidence.event_log)} bytes", expected="none: SGX keeps no event log"
        )
    replayed = replay(parse_event_log(evidence.event_log))
    for index in range(_BOOT_REGISTERS):
        if not same(replayed[index], quote.report.rtmrs[index]):
            raise MeasurementError(
                f"the event log replays to {replayed[index].hex()[:16]}.. in RTMR{index}, "
                f"the quote has {quote.report.rtmrs[index].hex()[:16]}..",
                hint="the log was changed, cut short, or is another boot's",
            )


def grade(claims: Claims, *, anchor: TrustAnchor) -> TrustTier:
    """Return the tier that verified claims deserve; under a simulated vendor's root always contraindicated."""
    if anchor.simulated:
        return TrustTier.CONTRAINDICATED
    return TrustTier.AFFIRMING if claims.tcb_status == "UpToDate" else TrustTier.WARNING


__all__ = [
    "EVERYTHING",
    "INTEL",
    "AppraisalPolicy",
    "AttestationResult",
    "Claims",
    "CollateralMemory",
    "CollateralSource",
    "TrustAnchor",
    "Verifier",
    "grade",
]
