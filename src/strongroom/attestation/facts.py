"""Answer what a quote is, without a session to bind it to: the engine of `strongroom attest verify` (spec §3.10).

``verified`` means genuine, intact, not revoked and not debug; whether that is good enough is a policy's question. Since
nothing binds the quote to anybody, a verified quote is no reason to give anyone anything.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from strongroom.attestation.anchors import INTEL, TrustAnchor
from strongroom.attestation.appraisal import grade, verify_event_log
from strongroom.attestation.criteria import AppraisalPolicy
from strongroom.attestation.evidence.quote import TdxQuote
from strongroom.attestation.evidence.ra_tls import RaTlsCertificate
from strongroom.attestation.failures import MalformedEvidenceError, ReportDataError
from strongroom.attestation.genuineness import AnyClaims, ignore, verify_evidence
from strongroom.attestation.runtime_log import RuntimeEvent, verify_runtime_log
from strongroom.errors import EvidenceError


def verify_quote(
    quote: bytes,
    *,
    collateral: str,
    now: datetime,
    anchor: TrustAnchor = INTEL,
    policy: AppraisalPolicy | None = None,
    event_log: bytes = b"",
    runtime_log: bytes = b"",
    certificate: RaTlsCertificate | None = None,
) -> dict[str, Any]:
    """Return the facts about a quote or report in the stable JSON shape; raises nothing on account of its arguments.

    Always: ``verdict`` (``verified`` or ``rejected``), ``status``, ``advisories``, ``step``, ``reason``, ``hint``,
    ``claims``, ``simulated``. A rejected quote has step, reason and hint, and neither status nor claims; a verified one
    the reverse. With ``policy`` also ``accepted``, ``reasons`` (every objection, each with its step) and ``tier``; with
    a ``certificate``, around the quote, also :func:`describe_certificate`. A boot ``event_log`` and a
    ``runtime_log`` must replay; what the latter says is in ``runtime_log``.
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
    if certificate is not None:
        facts["certificate"] = describe_certificate(certificate)
    try:
        claims = verify_evidence(quote, choose=lambda: collateral, anchor=anchor, now=now, remember=ignore)
        verify_event_log(event_log, claims)
        if runtime_log:
            facts["runtime_log"] = [
                {"name": one.name, "content": one.content.hex()} for one in _replay_runtime(runtime_log, claims)
            ]
        if certificate is not None:
            facts["certificate"]["binding"] = _verify_binding(certificate, claims)
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


def reject(error: EvidenceError, *, simulated: bool) -> dict[str, Any]:
    """Return the same shape for a file in which there is nothing to verify."""
    facts: dict[str, Any] = {"verdict": "rejected", "status": None, "advisories": [], "claims": {}}
    return facts | {"step": error.step, "reason": error.message, "hint": error.hint, "simulated": simulated}


def describe_certificate(certificate: RaTlsCertificate) -> dict[str, Any]:
    """Return what an RA-TLS certificate says, and that it is never sufficient."""
    return {
        "form": certificate.form,
        "nonce": certificate.nonce.hex(),
        "not_after": f"{certificate.not_after:%FT%TZ}",
        "binding": "",
        "sufficient": False,
        "warning": "evidence in a certificate can be replayed and relayed; a channel needs evidence of its own session",
    }


def _replay_runtime(log: bytes, claims: AnyClaims) -> tuple[RuntimeEvent, ...]:
    if not isinstance(claims.quote, TdxQuote):
        raise MalformedEvidenceError(
            field="runtime log", got=f"one beside {claims.quote.tee}", expected="none: only TDX has a register for it"
        )
    return verify_runtime_log(log, claims.quote.report.rtmrs[3])


def _verify_binding(certificate: RaTlsCertificate, claims: AnyClaims) -> str:
    binding = certificate.binding(claims.quote.report_data)
    if not binding:
        raise ReportDataError(
            "the quote does not commit to the key of the certificate around it",
            hint="somebody put another TEE's quote into a certificate of their own",
        )
    return binding


def _reason(error: EvidenceError) -> dict[str, str]:
    return {"step": error.step, "reason": error.message, "hint": error.hint}
