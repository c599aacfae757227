"""Rule on a job's request for keys: at submission, release, renewal and when a result is fetched.

Pure: takes records, policies, verified facts and a time. Every owner's policy is asked each time, all or nothing, and
a refusal carries every reason of every owner (spec/4-release.md §8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from strongroom.attestation.appraisal import AttestationResult
from strongroom.attestation.roles import Role
from strongroom.broker.records import Dataset, Job, Output
from strongroom.digests import bytes_digest
from strongroom.ledger.entry import Entry, EntryError
from strongroom.policy.document import DataUsePolicy
from strongroom.policy.evaluate import Grant, Refusal, evaluate, hold_until
from strongroom.policy.facts import Facts
from strongroom.policy.fusion import FusedPolicy
from strongroom.statements import PartyId, canonical_json

_MAX_REASONS_BYTES = 32 << 10
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class InputCase:
    """One input of a job as it stands at this moment: what is asked, and what its owner says."""

    dataset: Dataset | None
    name: str
    columns: tuple[str, ...]
    policy: DataUsePolicy | None
    uses: int
    revoked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """For how long, and until when, keys may be held: the shortest among all owners' policies."""

    lease: timedelta
    expires: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """One grant per input, in the job's order, and the term of them all."""

    grants: tuple[Grant, ...]
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeFacts:
    """The part of the facts that comes from evidence."""

    role: str
    tier: str
    simulated: bool
    tee: str
    measurement: str
    tcb_status: str
    advisories: tuple[str, ...]

    @classmethod
    def of(cls, result: AttestationResult, *, role: str) -> TeeFacts:
        """Return what the policies need to know of an attestation result."""
        return cls(
            role=role,
            tier=str(result.tier),
            simulated=result.simulated,
            tee=result.tee,
            measurement=result.measurement,
            tcb_status=result.tcb_status,
            advisories=tuple(result.advisories),
        )

    @classmethod
    def foreseen(cls, policy: DataUsePolicy, *, kind: str) -> TeeFacts:
        """Return the best case that ``policy`` itself names, so that only what cannot change refuses a job early."""
        role = head_role(kind).value
        measurement = next(iter(policy.tee.measurements.get(role, ())), "")
        return cls(
            role=role,
            tier=next(iter(policy.tee.tiers), ""),
            simulated=False,
            tee=measurement.partition(":")[0],
            measurement=measurement,
            tcb_status=next(iter(policy.tee.tcb), ""),
            advisories=(),
        )


def head_role(kind: str) -> Role:
    """Return the role that gets the ticket of a job of ``kind``: an endpoint serves, a driver does everything else."""
    return Role.ENDPOINT if kind == "serve" else Role.DRIVER


def rule(job: Job, cases: Sequence[InputCase], *, tee: TeeFacts | None, now: datetime) -> Ruling | Refusal:
    """Return a grant for every input of ``job``, or every reason of every owner why not.

    ``tee`` is None only before there is evidence (submission) or after the job ended (a result is fetched): then each
    policy is asked with the TEE that it itself names, and no key of a dataset is released on the answer.
    """
    grants: list[Grant] = []
    reasons: list[str] = []
    if not cases:
        reasons.append("the job has no input")
    for case in cases:
        if case.dataset is None:
            reasons.append(f"{case.name}: no dataset of this name and version is registered")
            continue
        if case.policy is None:
            reasons.append(f"{case.name}: there is no policy, so nothing is permitted")
            continue
        decision = evaluate(
            case.policy, _facts(job, case, tee or TeeFacts.foreseen(case.policy, kind=job.kind)), now=now
        )
        if isinstance(decision, Refusal):
            reasons.extend(f"{case.name}: {reason}" for reason in decision.reasons)
        else:
            grants.append(decision)
    if reasons:
        return Refusal(reasons=tuple(reasons))
    lease = min(grant.lease for grant in grants)
    return Ruling(grants=tuple(grants), term=Term(lease=lease, expires=now + lease))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What ``grants`` rested on: this job, every input as it stood, these attested facts.

    While all of it is the same, every rule but those about time says the same, so only those are asked again, be it for
    the same session or for another of equal facts. A revocation, a policy, a use or a revision changes a case, and
    everything is ruled on anew.
    """

    job: Job
    cases: tuple[InputCase, ...]
    tee: TeeFacts
    grants: tuple[Grant, ...]

    def rule_again(self, job: Job, cases: tuple[InputCase, ...], *, tee: TeeFacts, now: datetime) -> Term | None:
        """Return the term of the same grant at ``now``, or None if anything changed or its time is over."""
        if job is not self.job or (tee is not self.tee and tee != self.tee) or cases != self.cases:
            return None
        expires: datetime | None = None
        for case in cases:
            end = None if case.policy is None else hold_until(case.policy, now=now)
            if end is None:
                return None
            expires = end if expires is None else min(expires, end)
        return None if expires is None else Term(lease=expires - now, expires=expires)


def missing_approvals(output: Output, policy: FusedPolicy, *, approved: Mapping[str, str]) -> tuple[str, ...]:
    """Return one reason for each approval rule that ``output`` does not satisfy yet.

    ``approved`` maps a party's fingerprint to the digest that it approved; another digest counts as nothing.
    """
    reasons = []
    for approval in policy.approvals:
        given = [party for party in approval.of if approved.get(party.fingerprint) == output.digest]
        if len(given) < approval.needed:
            of = ", ".join(str(party) for party in approval.of)
            reasons.append(f"output {output.id} has {len(given)} of {approval.needed} approvals by {of}")
    return tuple(reasons)


def unknown_recipients(recipients: Sequence[PartyId], members: Mapping[str, object]) -> tuple[str, ...]:
    """Return one reason for each recipient that is not enrolled, because no result could be sealed to it."""
    return tuple(
        f"the recipient {party} is not a member of this broker"
        for party in recipients
        if party.fingerprint not in members
    )


def shorten(reasons: Sequence[str]) -> tuple[str, ...]:
    """Return ``reasons`` so that they always fit a ledger entry: long ones cut, and what is left out counted."""
    kept: list[str] = []
    size = 0
    for reason in reasons:
        short = reason if len(reason) <= _MAX_REASON else reason[: _MAX_REASON - 1] + "…"
        size += len(canonical_json(short))
        if size > _MAX_REASONS_BYTES:
            return (*kept, f"and {len(reasons) - len(kept)} more reasons")
        kept.append(short)
    return tuple(kept)


def fit(entry: Entry) -> Entry:
    """Return ``entry``, or where its facts are too many for the ledger, one that names them by their digest.

    A decision must never fail because there is too much to say about it.
    """
    try:
        entry.encode()
    except EntryError:
        return abridge(entry)
    return entry


def abridge(entry: Entry) -> Entry:
    """Return ``entry`` with only the facts that are short, and the digest of them all."""
    facts = canonical_json(dict(entry.facts))
    kept = {name: value for name, value in entry.facts.items() if isinstance(value, str | bool | int)}
    return replace(entry, facts={**kept, "facts_digest": bytes_digest(facts), "facts_bytes": len(facts)})


def _facts(job: Job, case: InputCase, tee: TeeFacts) -> Facts:
    return Facts(
        dataset=case.name,
        purpose=job.purpose,
        analyst=job.analyst,
        kind=job.kind,
        program=job.program,
        role=tee.role,
        tier=tee.tier,
        simulated=tee.simulated,
        tee=tee.tee,
        measurement=tee.measurement,
        tcb_status=tee.tcb_status,
        advisories=tee.advisories,
        columns=case.columns,
        recipients=job.recipients,
        uses=case.uses,
        revoked=case.revoked,
        first_use=not job.opened,
    )
