"""Answer what a quote is, without a session to bind it to: the engine of `strongroom attest verify` (spec §3.10).

``verified`` means genuine, intact, not revoked and not debug; whether that is good enough is a policy's question. Since
nothing binds the quote to anybody, a verified quote is no reason to give anyone anything.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.appraisal import grade
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.genuineness import ignore, verify_evidence
from strongroom.errors import EvidenceError


def verify_quote(
    quote: bytes,
    *,
    collateral: str,
    now: datetime,
    anchor: TrustAnchor = INTEL,
    policy: AppraisalPolicy | None = None,
) -> dict[str, Any]:
    """Return the facts about a quote or report in the stable JSON shape; raises nothing on account of its arguments.

    Always: ``verdict`` (``verified`` or ``rejected``), ``status``, ``advisories``, ``step``, ``reason``, ``hint``,
    ``claims``, ``simulated``. A rejected quote has step, reason and hint, and neither status nor claims; a verified one
    the reverse. With ``policy`` also ``accepted``, ``reasons`` (every objection, each with its step) and ``tier``.
    """
    facts: dict[str, Any] = {
        "verdict": "rejected",
        "status": None,
        "advisories": [],
        "step": None,
        "reason": None,
        "hint": None,
        "claims": {},
        "simulated": anchor.simulated,
    }
    try:
        claims = verify_evidence(quote, choose=lambda: collateral, anchor=anchor, now=now, remember=ignore)
    except EvidenceError as error:
        facts |= {"step": error.step, "reason": error.message, "hint": error.hint}
        if policy is not None:
            facts |= {"accepted": False, "reasons": [_reason(error)], "tier": "none"}
        return facts
    facts |= {
        "verdict": "verified",
        "status": claims.tcb_status,
        "advisories": list(claims.advisories),
        "claims": claims.to_json(),
    }
    if policy is not None:
        objections = policy.evaluate(claims, now=now)
        facts |= {
            "accepted": not objections,
            "reasons": [_reason(objection) for objection in objections],
            "status": policy.rate(claims),
            "tier": grade(policy.rate(claims), anchor=anchor).value,
        }
    return facts


def _reason(error: EvidenceError) -> dict[str, str]:
    return {"step": error.step, "reason": error.message, "hint": error.hint}
