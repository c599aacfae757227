"""Combine the policies of all inputs of a job into the strictest (spec/2-policy.md §5).

What the fused policy permits, every single policy permits; every obligation of every policy is kept. The combination
is a meet: in any order, in any grouping, and however often a policy is named, the result is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from typing import Any, Self

from pydantic import Field

from strongroom.digests import digest, to_text
from strongroom.errors import PolicyError
from strongroom.policy.document import (
    ApprovalRule,
    Columns,
    DataUsePolicy,
    FileRules,
    MinimumGroup,
    Quota,
    ServingRules,
    policy_digest,
)
from strongroom.policy.form import ApprovalsForm, FilesForm, Form, QuotaForm, ServingForm
from strongroom.policy.problems import read_form
from strongroom.policy.shapes import Column, Name, Parties, PolicyDigest, Purpose, When, when_text
from strongroom.statements import PartyId, canonical_json

VERSION = 1


class FusionError(PolicyError):
    """Policies cannot be fused, or a fused policy is malformed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRules:
    """What the fused policy says about one dataset.

    ``units`` are the columns whose different values are counted against ``group_size``; without any, rows are.
    """

    dataset: str
    columns: Columns
    group_size: int
    units: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedPolicy:
    """The strictest combination of the policies named in ``policies`` (their digests); times are UTC."""

    rules: tuple[DatasetRules, ...]
    policies: tuple[str, ...]
    purposes: tuple[str, ...]
    analysts: tuple[PartyId, ...]
    recipients: tuple[PartyId, ...]
    approvals: tuple[ApprovalRule, ...]
    max_rows: int | None
    files: FileRules | None
    not_before: datetime | None
    expires: datetime
    lease: timedelta
    serving: ServingRules | None = None

    @classmethod
    def of(cls, policy: DataUsePolicy) -> Self:
        """Return the fusion of one policy alone."""
        group, approvals = policy.outputs.minimum_group, policy.outputs.approvals
        return cls(
            rules=(
                DatasetRules(
                    dataset=policy.dataset,
                    columns=_meet_columns(policy.columns, policy.columns),
                    group_size=group.size,
                    units=() if group.unit is None else (group.unit,),
                ),
            ),
            policies=(policy_digest(policy),),
            purposes=tuple(sorted(set(policy.purposes))),
            analysts=_meet_parties(policy.analysts, policy.analysts),
            recipients=_meet_parties(policy.outputs.recipients, policy.outputs.recipients),
            approvals=_join_approvals([approvals]),
            max_rows=policy.outputs.max_rows,
            files=_meet_files(policy.outputs.files, policy.outputs.files),
            not_before=policy.not_before,
            expires=policy.expires,
            lease=policy.lease,
            serving=_meet_serving(policy.serving, policy.serving),
        )

    def meet(self, other: FusedPolicy) -> FusedPolicy:
        """Return the strictest combination of both."""
        return FusedPolicy(
            rules=_join_rules(self.rules, other.rules),
            policies=tuple(sorted({*self.policies, *other.policies})),
            purposes=tuple(sorted({*self.purposes} & {*other.purposes})),
            analysts=_meet_parties(self.analysts, other.analysts),
            recipients=_meet_parties(self.recipients, other.recipients),
            approvals=_join_approvals([*self.approvals, *other.approvals]),
            max_rows=min((rows for rows in (self.max_rows, other.max_rows) if rows is not None), default=None),
            files=_meet_files(self.files, other.files),
            not_before=max((at for at in (self.not_before, other.not_before) if at is not None), default=None),
            expires=min(self.expires, other.expires),
            lease=min(self.lease, other.lease),
            serving=_meet_serving(self.serving, other.serving),
        )

    @property
    def datasets(self) -> tuple[str, ...]:
        """Return the names of the datasets, sorted."""
        return tuple(rule.dataset for rule in self.rules)

    @property
    def minimum_group(self) -> MinimumGroup:
        """Return the largest minimum group of any dataset, and its unit where there is only one."""
        units = {unit for rule in self.rules for unit in rule.units}
        size = max(rule.group_size for rule in self.rules)
        return MinimumGroup(size=size, unit=units.pop() if len(units) == 1 else None)

    @property
    def digest(self) -> str:
        """Return ``sha256:<hex>`` over the canonical form."""
        return to_text(digest("strongroom/fused-policy/v1", self.encode()))

    def permits_column(self, dataset: str, column: str) -> bool:
        """Return whether every policy of ``dataset`` allows ``column``; a dataset without a policy allows none."""
        return any(rule.columns.permits(column) for rule in self.rules if rule.dataset == dataset)

    def encode(self) -> bytes:
        """Return the canonical JSON; it travels only inside something signed or sealed."""
        document: dict[str, Any] = {
            "version": VERSION,
            "rules": [
                {
                    "dataset": rule.dataset,
                    "allow": list(rule.columns.allow),
                    "withhold": list(rule.columns.withhold),
                    "group_size": rule.group_size,
                    "units": list(rule.units),
                }
                for rule in self.rules
            ],
            "policies": list(self.policies),
            "purposes": list(self.purposes),
            "analysts": [str(party) for party in self.analysts],
            "recipients": [str(party) for party in self.recipients],
            "approvals": [{"needed": rule.needed, "of": [str(party) for party in rule.of]} for rule in self.approvals],
            "expires": when_text(self.expires),
            "lease": int(self.lease.total_seconds()),
        }
        if self.max_rows is not None:
            document["max_rows"] = self.max_rows
        if self.files is not None:
            document["files"] = {
                "recipients": [str(party) for party in self.files.recipients],
                "max_bytes": self.files.max_bytes,
                **({} if self.files.owner is None else {"owner": str(self.files.owner)}),
            }
        if self.serving is not None:
            document["serving"] = self.serving.document()
        if self.not_before is not None:
            document["not_before"] = when_text(self.not_before)
        return canonical_json(document)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse what ``encode`` wrote; raise PolicyError for anything else."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FusionError("the fused policy is not JSON") from error
        if not isinstance(document, dict):
            raise FusionError(f"the fused policy is a JSON {type(document).__name__}, must be an object")
        form = read_form(FusedForm, document, what="the fused policy")
        fused = cls(
            rules=tuple(
                DatasetRules(
                    dataset=rule.dataset,
                    columns=Columns(allow=tuple(rule.allow), withhold=tuple(rule.withhold)),
                    group_size=rule.group_size,
                    units=tuple(rule.units),
                )
                for rule in form.rules
            ),
            policies=tuple(form.policies),
            purposes=tuple(form.purposes),
            analysts=tuple(PartyId.parse(text) for text in form.analysts),
            recipients=tuple(PartyId.parse(text) for text in form.recipients),
            approvals=tuple(
                ApprovalRule(needed=rule.needed, of=tuple(PartyId.parse(text) for text in rule.of))
                for rule in form.approvals
            ),
            max_rows=form.max_rows,
            files=FileRules(
                recipients=tuple(PartyId.parse(text) for text in form.files.recipients),
                owner=None if form.files.owner is None else PartyId.parse(form.files.owner),
                max_bytes=form.files.max_bytes,
            )
            if form.files
            else None,
            not_before=form.not_before,
            expires=form.expires,
            lease=timedelta(seconds=form.lease),
            serving=ServingRules.of(form.serving) if form.serving else None,
        )
        if fused.meet(fused).encode() != data:
            raise FusionError("the fused policy is not in the canonical form of version 1")
        return fused


class RuleForm(Form):
    """What a fused policy says about one dataset, as it travels."""

    dataset: Name
    allow: list[Column]
    withhold: list[Column]
    group_size: int = Field(ge=1)
    units: list[Column]


class FusedServingForm(ServingForm):
    """The serving rules of several policies, as they travel: every quota of every policy."""

    quotas: list[QuotaForm] = Field(min_length=1)


class FusedForm(Form):
    """A fused policy as it travels."""

    version: int = Field(ge=VERSION, le=VERSION)
    rules: list[RuleForm] = Field(min_length=1)
    policies: list[PolicyDigest] = Field(min_length=1)
    purposes: list[Purpose]
    analysts: Parties
    recipients: Parties
    approvals: list[ApprovalsForm]
    max_rows: int | None = Field(default=None, ge=1)
    files: FilesForm | None = None
    serving: FusedServingForm | None = None
    not_before: When | None = None
    expires: When
    lease: int = Field(ge=1)


def fuse(policies: Sequence[DataUsePolicy]) -> FusedPolicy:
    """Return the strictest combination of ``policies``; no policy at all permits nothing and raises FusionError."""
    if not policies:
        raise FusionError("there is no policy to fuse", hint="a job has at least one input, and every input a policy")
    return reduce(FusedPolicy.meet, (FusedPolicy.of(policy) for policy in policies))


def _meet_parties(left: Iterable[PartyId], right: Iterable[PartyId]) -> tuple[PartyId, ...]:
    """Return the parties on both lists, by fingerprint; of two names for one party the alphabetically first is kept."""
    here, there = _by_fingerprint(left), _by_fingerprint(right)
    both = (
        PartyId(name=min(here[fingerprint], there[fingerprint]), fingerprint=fingerprint)
        for fingerprint in here.keys() & there.keys()
    )
    return tuple(sorted(both, key=lambda party: party.fingerprint))


def _meet_files(left: FileRules | None, right: FileRules | None) -> FileRules | None:
    """Return the stricter of both: no files unless both permit them, and no owner unless both name the same."""
    if left is None or right is None:
        return None
    owners = [party for party in (left.owner, right.owner) if party is not None]
    agreed = len(owners) == 2 and owners[0].fingerprint == owners[1].fingerprint  # noqa: PLR2004  both
    return FileRules(
        recipients=_meet_parties(left.recipients, right.recipients),
        owner=min(owners, key=lambda party: party.name) if agreed else None,
        max_bytes=min(left.max_bytes, right.max_bytes),
    )


def _meet_serving(left: ServingRules | None, right: ServingRules | None) -> ServingRules | None:
    """Return the stricter of both: no answers unless both permit them, and every quota of either."""
    if left is None or right is None:
        return None
    quotas: dict[int, int] = {}
    for one in (*left.quotas, *right.quotas):
        quotas[one.seconds] = min(one.answers, quotas.get(one.seconds, one.answers))
    return ServingRules(
        callers=_meet_parties(left.callers, right.callers),
        quotas=tuple(Quota(answers=answers, seconds=seconds) for seconds, answers in sorted(quotas.items())),
        kinds=tuple(sorted({*left.kinds} & {*right.kinds})),
        digits=min(left.digits, right.digits),
        top=min((top for top in (left.top, right.top) if top is not None), default=None),
        tokens=min(left.tokens, right.tokens),
    )


def _by_fingerprint(parties: Iterable[PartyId]) -> dict[str, str]:
    names: dict[str, str] = {}
    for party in parties:
        names[party.fingerprint] = min(party.name, names.get(party.fingerprint, party.name))
    return names


def _join_approvals(rules: Iterable[ApprovalRule]) -> tuple[ApprovalRule, ...]:
    """Return every rule that asks somebody; the same number of the same parties is one rule."""
    kept: dict[tuple[int, tuple[str, ...]], ApprovalRule] = {}
    for rule in rules:
        if rule.needed == 0:
            continue
        key = (rule.needed, tuple(sorted(party.fingerprint for party in rule.of)))
        earlier = kept[key].of if key in kept else rule.of
        kept[key] = ApprovalRule(needed=rule.needed, of=_meet_parties(rule.of, earlier))
    return tuple(kept[key] for key in sorted(kept))


def _join_rules(left: Sequence[DatasetRules], right: Sequence[DatasetRules]) -> tuple[DatasetRules, ...]:
    """Return the rules for all datasets; two policies for one dataset are met column by column."""
    joined: dict[str, DatasetRules] = {}
    for rule in (*left, *right):
        joined[rule.dataset] = _meet_rules(rule, joined.get(rule.dataset, rule))
    return tuple(joined[dataset] for dataset in sorted(joined))


def _meet_rules(left: DatasetRules, right: DatasetRules) -> DatasetRules:
    return DatasetRules(
        dataset=left.dataset,
        columns=_meet_columns(left.columns, right.columns),
        group_size=max(left.group_size, right.group_size),
        units=tuple(sorted({*left.units, *right.units})),
    )


def _meet_columns(left: Columns, right: Columns) -> Columns:
    if left.allow == ("*",):
        allow: Iterable[str] = right.allow
    elif right.allow == ("*",):
        allow = left.allow
    else:
        allow = {*left.allow} & {*right.allow}
    withhold: dict[str, str] = {}
    for name in (*left.withhold, *right.withhold):
        withhold[name.casefold()] = min(name, withhold.get(name.casefold(), name))
    return Columns(allow=tuple(sorted(set(allow))), withhold=tuple(withhold[key] for key in sorted(withhold)))
