"""Rule on one output (spec/2-policy.md §6).

Pure: takes the output's facts and the fused policy; never opens a file, a key or a connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from strongroom.policy.evaluate import Refusal
from strongroom.policy.fusion import FusedPolicy
from strongroom.statements import PartyId


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFacts:
    """What egress saw of an output: its name, size and columns, and who is to receive it."""

    name: str
    declared: bool
    rows: int
    columns: tuple[str, ...]
    recipients: tuple[PartyId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Permission to encrypt one output to its recipients; ``approvals`` says whether owners must agree first."""

    name: str
    recipients: tuple[PartyId, ...]
    approvals: bool


def rule(facts: OutputFacts, policy: FusedPolicy) -> Release | Refusal:
    """Return a release if every owner's rules on outputs hold for ``facts``, else all refusals."""
    reasons = []
    if not facts.declared:
        reasons.append(f"output {facts.name!r} is not declared in the job")
    if not facts.recipients:
        reasons.append(f"output {facts.name!r} has no recipient")
    permitted = set(policy.recipients)
    reasons.extend(
        f"recipient {recipient} of output {facts.name!r} is not permitted by every owner; permitted: "
        f"{sorted(str(one) for one in permitted) or 'nobody'}"
        for recipient in facts.recipients
        if recipient not in permitted
    )
    if policy.max_rows is not None and facts.rows > policy.max_rows:
        reasons.append(f"output {facts.name!r} has {facts.rows} rows, the owners permit at most {policy.max_rows}")
    if reasons:
        return Refusal(reasons=tuple(reasons))
    return Release(name=facts.name, recipients=facts.recipients, approvals=any(one.needed for one in policy.approvals))
