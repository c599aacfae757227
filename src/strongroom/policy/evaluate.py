"""Rule on one request for one dataset's keys (spec/2-policy.md §4).

Pure: takes facts and a time; never a clock, a network or a store. Every rule is asked, and a refusal carries every
reason, in the order of the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from strongroom.policy.document import DataUsePolicy, policy_digest
from strongroom.policy.facts import JOB_KINDS, Facts
from strongroom.policy.shapes import when_text

_MANY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Permission to release the keys of ``columns`` once, before ``expires``, and to hold them for ``lease``.

    ``columns`` are those asked for, in their order; none, or ``"*"``, stands for the whole dataset.
    """

    dataset: str
    columns: tuple[str, ...]
    lease: timedelta
    expires: datetime
    policy_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Every rule that said no, in policy order, each as a sentence with what was got and what was expected."""

    reasons: tuple[str, ...]


def evaluate(policy: DataUsePolicy, facts: Facts, *, now: datetime) -> Grant | Refusal:
    """Return a grant if every rule of ``policy`` holds for ``facts`` at ``now``, else every reason why not."""
    reasons = (
        *_judge_dataset(policy, facts),
        *_judge_time(policy, now),
        *_judge_use(policy, facts),
        *_judge_columns(policy, facts),
        *_judge_tee(policy, facts),
        *_judge_recipients(policy, facts),
    )
    if reasons:
        return Refusal(reasons=reasons)
    expires = _end(policy, now)
    return Grant(
        dataset=policy.dataset,
        columns=facts.columns,
        lease=expires - now,
        expires=expires,
        policy_digest=_digest(_This(policy)),
    )


def hold_until(policy: DataUsePolicy, *, now: datetime) -> datetime | None:
    """Return until when keys granted at ``now`` may be held, or None if a rule about time says no (§4.3).

    Time is all this asks about: it is for a request whose other facts and policy are the very ones of an earlier grant.
    """
    return None if any(_judge_time(policy, now)) else _end(policy, now)


def _end(policy: DataUsePolicy, now: datetime) -> datetime:
    return min(now + policy.lease, policy.expires)


class _This:
    """One policy as this very object; policies never change, so what is computed from it holds for its whole life."""

    __slots__ = ("policy",)

    def __init__(self, policy: DataUsePolicy) -> None:
        self.policy = policy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and other.policy is self.policy

    def __hash__(self) -> int:
        return id(self.policy)


@lru_cache(maxsize=4096)
def _digest(this: _This) -> str:
    """Return the policy's digest, computed once for each policy object; the cache holds it, so its id stays its own."""
    return policy_digest(this.policy)


def _judge_dataset(policy: DataUsePolicy, facts: Facts) -> Iterator[str]:
    if facts.dataset != policy.dataset:  # §4.1
        yield f"the request is for dataset {facts.dataset!r}, the policy is for {policy.dataset!r}"
    if facts.revoked:  # §4.2
        yield f"dataset {facts.dataset!r} is revoked by its owner: nothing of it is released any more"


def _judge_time(policy: DataUsePolicy, now: datetime) -> Iterator[str]:
    if policy.not_before is not None and now < policy.not_before:  # §4.3
        yield f"the policy begins at {when_text(policy.not_before)}, it is {when_text(now)}"
    if now >= policy.expires:
        yield f"the policy expired at {when_text(policy.expires)}, it is {when_text(now)}"


def _judge_use(policy: DataUsePolicy, facts: Facts) -> Iterator[str]:
    if facts.purpose not in policy.purposes:  # §4.4
        yield f"the purpose is {facts.purpose!r}, must be {_one_of(policy.purposes)}"
    if facts.analyst not in policy.analysts:  # §4.5
        yield f"the analyst is {facts.analyst}, must be {_one_of(policy.analysts)}"
    if facts.kind not in JOB_KINDS:  # §4.6
        yield f"the job is of kind {facts.kind!r}, must be {_one_of(JOB_KINDS)}"
    elif facts.program not in policy.programs.approved and not (facts.kind == "sql" and policy.programs.sql):
        or_sql = ", or a SQL query" if policy.programs.sql else ""
        yield (
            f"the {facts.kind} program has digest {facts.program}, must be {_one_of(policy.programs.approved)}{or_sql}"
        )
    if facts.first_use and policy.max_uses is not None and facts.uses >= policy.max_uses:  # §4.7
        yield f"the dataset was opened by {facts.uses} jobs, and at most {policy.max_uses} may open it"


def _judge_columns(policy: DataUsePolicy, facts: Facts) -> Iterator[str]:
    for column in facts.columns or ("*",):  # §4.8
        if policy.columns.permits(column):
            continue
        if column == "*":
            allowed = "all columns" if policy.columns.allow == ("*",) else f"columns {_listed(policy.columns.allow)}"
            but = f" but {_listed(policy.columns.withhold)}" if policy.columns.withhold else ""
            yield f"the whole dataset is asked for, must be among {allowed}{but}"
        elif column.casefold() in {name.casefold() for name in policy.columns.withhold}:
            yield f"column {column!r} is withheld by the owner, must not be asked for"
        else:
            yield f"column {column!r} is not allowed, must be {_one_of(policy.columns.allow)}"


def _judge_tee(policy: DataUsePolicy, facts: Facts) -> Iterator[str]:
    tee = policy.tee
    if facts.simulated and not tee.allow_simulated:  # §4.9
        yield "the workload runs in a simulated TEE, must run in a real one (allow_simulated is false)"
    # A simulated result is contraindicated by definition; naming it in the policy is the only way to accept that.
    named = facts.simulated and tee.allow_simulated and facts.tier == "contraindicated"
    if facts.tier not in tee.tiers and not named:  # §4.10
        yield f"the attestation result is {facts.tier}, must be {_one_of(tee.tiers)}"
    if facts.tcb_status not in tee.tcb:  # §4.11
        yield f"the platform's TCB status is {facts.tcb_status}, must be {_one_of(tee.tcb)}"
    for advisory in facts.advisories:  # §4.12
        if advisory not in tee.advisories_accepted:
            yield f"advisory {advisory} is open on the platform, must be {_one_of(tee.advisories_accepted)}"
    if facts.role in tee.measurements and (facts.role == "endpoint") != (facts.kind == "serve"):  # §4.15
        yield f"a job of kind {facts.kind!r} is not for the role {facts.role!r}: an endpoint serves, and nobody else"
    if facts.role not in tee.measurements:  # §4.13
        yield f"the workload's role is {facts.role!r}, must be {_one_of(sorted(tee.measurements))}"
    elif facts.measurement not in tee.measurements[facts.role]:
        yield (
            f"the {facts.role}'s measurement is {facts.measurement}, must be {_one_of(tee.measurements[facts.role])}"
        )
    elif facts.measurement.partition(":")[0] != facts.tee:
        yield f"the measurement is of kind {facts.measurement.partition(':')[0]}, the evidence is of kind {facts.tee}"


def _judge_recipients(policy: DataUsePolicy, facts: Facts) -> Iterator[str]:
    if not facts.recipients:  # §4.14
        yield "the job names no recipient for its outputs, must name at least one"
    if facts.kind == "serve":  # §4.15
        yield from _judge_callers(policy, facts)
        return
    for recipient in facts.recipients:
        if recipient not in policy.outputs.recipients:
            yield f"the recipient {recipient} is not permitted, must be {_one_of(policy.outputs.recipients)}"


def _judge_callers(policy: DataUsePolicy, facts: Facts) -> Iterator[str]:
    if policy.serving is None:
        yield "the policy has no [serving], so no endpoint may answer from this dataset"
        return
    for caller in facts.recipients:
        if caller not in policy.serving.callers:
            yield f"the caller {caller} is not permitted, must be {_one_of(policy.serving.callers)}"


def _one_of(values: Iterable[object]) -> str:
    """Return what would have been right, as the end of a sentence."""
    texts = [str(value) for value in values]
    if not texts:
        return "on the owner's list, which is empty"
    return texts[0] if len(texts) == 1 else f"one of {_listed(texts)}"


def _listed(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    if not texts:
        return "(none)"
    rest = f" and {len(texts) - _MANY} more" if len(texts) > _MANY else ""
    return ", ".join(texts[:_MANY]) + rest
