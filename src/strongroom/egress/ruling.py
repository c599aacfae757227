"""Rule on one output (spec/2-policy.md §6).

Pure: takes the output's facts and the fused policy; never opens a file, a key or a connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from strongroom.policy.evaluate import Refusal
from strongroom.policy.fusion import FusedPolicy
from strongroom.statements import PartyId


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFacts:
    """What egress saw of an output: its name, size and columns, and who is to receive it.

    ``kind`` is that of the job (table, files or kept-files); ``bytes`` and ``problems`` are those of its files.
    """

    name: str
    declared: bool
    recipients: tuple[PartyId, ...]
    kind: str
    rows: int = 0
    columns: tuple[str, ...] = ()
    bytes: int = 0
    problems: tuple[str, ...] = ()


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
    reasons.extend(f"output {facts.name!r}: {problem}" for problem in facts.problems)
    if facts.kind != "table":
        reasons.extend(_judge_files(facts, policy))
    elif policy.max_rows is not None and facts.rows > policy.max_rows:
        reasons.append(f"output {facts.name!r} has {facts.rows} rows, the owners permit at most {policy.max_rows}")
    if reasons:
        return Refusal(reasons=tuple(reasons))
    return Release(name=facts.name, recipients=facts.recipients, approvals=any(one.needed for one in policy.approvals))


def _judge_files(facts: OutputFacts, policy: FusedPolicy) -> Iterator[str]:
    """Yield why an output of files may not leave, or not stay."""
    rules = policy.files
    if rules is None:
        yield f"output {facts.name!r} has files, and not every owner's policy permits any ([outputs.files])"
        return
    if facts.bytes > rules.max_bytes:
        yield f"output {facts.name!r} has {facts.bytes} bytes, the owners permit at most {rules.max_bytes}"
    if facts.kind == "kept-files":
        if rules.owner is None:
            yield f"output {facts.name!r} is to stay inside, and the owners name no one owner of what stays"
        elif [party.fingerprint for party in facts.recipients] != [rules.owner.fingerprint]:
            yield f"output {facts.name!r} is to stay inside, so it goes to its owner alone: {rules.owner}"
        return
    permitted = {party.fingerprint for party in rules.recipients}
    for recipient in facts.recipients:
        if recipient.fingerprint not in permitted:
            yield (
                f"recipient {recipient} may not take out files ({facts.name!r}); permitted: "
                f"{', '.join(str(one) for one in rules.recipients) or 'nobody'}"
            )
