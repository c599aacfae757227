"""What one owner permits with one dataset: the data-use policy, parsed, signed and verified (spec/2-policy.md §1-§3).

Whatever a policy does not name, it denies, and an empty list denies. A policy has one written form: the signed payload
is exactly the canonical JSON of the document, so nothing is signed that is not evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Self

from strongroom.digests import digest, to_text
from strongroom.errors import PolicyError
from strongroom.policy.form import PolicyForm, ServingForm
from strongroom.policy.problems import parse_toml, read_form
from strongroom.policy.shapes import when_text
from strongroom.statements import PartyId, SigningKey, Statement, canonical_json, sign

KIND = "policy"
VERSION = 1


class PolicyOwnerError(PolicyError):
    """A policy is signed by somebody who is not the owner it names."""


class PolicyFormError(PolicyError):
    """A signed policy is not written in the one canonical form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Which programs may run: those whose digest is approved and, if ``sql``, every checked SQL query."""

    approved: tuple[str, ...] = ()
    sql: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns' keys may be released; ``("*",)`` allows all but the withheld."""

    allow: tuple[str, ...]
    withhold: tuple[str, ...] = ()

    def permits(self, column: str) -> bool:
        """Return whether the column's key may be released; ``"*"`` stands for the whole dataset.

        Engines ignore the case of names, so a withheld name is withheld in every spelling.
        """
        if column == "*":
            return self.allow == ("*",) and not self.withhold
        if column.casefold() in {name.casefold() for name in self.withhold}:
            return False
        return self.allow == ("*",) or column in self.allow


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeRequirements:
    """Which trusted execution environments may hold keys; ``measurements`` maps each role to what it accepts."""

    allow_simulated: bool
    tiers: tuple[str, ...]
    tcb: tuple[str, ...]
    advisories_accepted: tuple[str, ...]
    measurements: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimumGroup:
    """How many rows, or different values of the column ``unit``, stand behind every row of a SQL result; 1 is off."""

    size: int
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRule:
    """How many of which parties approve every output; ``needed`` 0 asks nobody."""

    needed: int = 0
    of: tuple[PartyId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRules:
    """Who may take out an output of files, such as a model, and whose dataset it becomes if it stays inside."""

    recipients: tuple[PartyId, ...]
    owner: PartyId | None
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The most answers that one caller gets in each window of ``seconds``."""

    answers: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRules:
    """Who may ask a model, how often, and what an answer may hold; every quota is to be kept.

    A score has at most ``digits`` digits, ``top`` bounds the scores of one answer, ``tokens`` the pieces of its text.
    """

    callers: tuple[PartyId, ...]
    quotas: tuple[Quota, ...]
    kinds: tuple[str, ...]
    digits: int
    top: int | None
    tokens: int

    @classmethod
    def of(cls, form: ServingForm) -> Self:
        """Return the rules that were written in a document."""
        return cls(
            callers=_parties(form.callers),
            quotas=tuple(Quota(answers=one.answers, seconds=one.seconds) for one in form.quotas),
            kinds=tuple(form.answers.kinds),
            digits=form.answers.digits,
            top=form.answers.top,
            tokens=form.answers.tokens,
        )

    def document(self) -> dict[str, Any]:
        """Return the rules as they are written in a document."""
        top = {} if self.top is None else {"top": self.top}
        return {
            "callers": [str(party) for party in self.callers],
            "quotas": [{"answers": one.answers, "seconds": one.seconds} for one in self.quotas],
            "answers": {"kinds": list(self.kinds), "digits": self.digits, "tokens": self.tokens, **top},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRules:
    """What may leave, and to whom."""

    recipients: tuple[PartyId, ...]
    minimum_group: MinimumGroup
    approvals: ApprovalRule = ApprovalRule()
    max_rows: int | None = None
    files: FileRules | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUsePolicy:
    """An owner's permissions and obligations for one dataset; times are UTC in whole seconds."""

    dataset: str
    version: int
    owner: PartyId
    purposes: tuple[str, ...]
    analysts: tuple[PartyId, ...]
    not_before: datetime | None
    expires: datetime
    max_uses: int | None
    lease: timedelta
    programs: Programs
    columns: Columns
    tee: TeeRequirements
    outputs: OutputRules
    serving: ServingRules | None = None


def parse_policy_toml(text: str) -> DataUsePolicy:
    """Return the policy written in TOML; raise DocumentError listing every problem."""
    return read_policy(parse_toml(text, what="the policy"))


def read_policy(document: Mapping[str, Any]) -> DataUsePolicy:
    """Return the policy in a parsed TOML or JSON document; raise DocumentError listing every problem."""
    form = read_form(PolicyForm, document, what="the policy")
    approvals, files = form.outputs.approvals, form.outputs.files
    return DataUsePolicy(
        dataset=form.dataset,
        version=form.version,
        owner=PartyId.parse(form.owner),
        purposes=tuple(form.purposes),
        analysts=_parties(form.analysts),
        not_before=form.not_before,
        expires=form.expires,
        max_uses=form.max_uses,
        lease=timedelta(seconds=form.lease),
        programs=Programs(approved=tuple(form.programs.approved), sql=form.programs.sql),
        columns=Columns(allow=tuple(form.columns.allow), withhold=tuple(form.columns.withhold)),
        tee=TeeRequirements(
            allow_simulated=form.tee.allow_simulated,
            tiers=tuple(form.tee.tiers),
            tcb=tuple(form.tee.tcb),
            advisories_accepted=tuple(form.tee.advisories_accepted),
            measurements=MappingProxyType(
                {
                    "driver": tuple(form.tee.measurements.driver),
                    "worker": tuple(form.tee.measurements.worker),
                    "egress": tuple(form.tee.measurements.egress),
                    "endpoint": tuple(form.tee.measurements.endpoint),
                }
            ),
        ),
        outputs=OutputRules(
            recipients=_parties(form.outputs.recipients),
            minimum_group=MinimumGroup(
                size=form.outputs.minimum_group.size,
                unit=form.outputs.minimum_group.unit,
            ),
            approvals=ApprovalRule(needed=approvals.needed, of=_parties(approvals.of)) if approvals else ApprovalRule(),
            max_rows=form.outputs.max_rows,
            files=FileRules(
                recipients=_parties(files.recipients),
                owner=None if files.owner is None else PartyId.parse(files.owner),
                max_bytes=files.max_bytes,
            )
            if files
            else None,
        ),
        serving=ServingRules.of(form.serving) if form.serving else None,
    )


def policy_document(policy: DataUsePolicy) -> dict[str, Any]:
    """Return the policy as a JSON object: every key, defaults written out, absent choices left out."""
    outputs: dict[str, Any] = {
        "recipients": [str(party) for party in policy.outputs.recipients],
        "minimum_group": {"size": policy.outputs.minimum_group.size},
    }
    if policy.outputs.minimum_group.unit is not None:
        outputs["minimum_group"]["unit"] = policy.outputs.minimum_group.unit
    if policy.outputs.approvals.needed:
        rule = policy.outputs.approvals
        outputs["approvals"] = {"needed": rule.needed, "of": [str(party) for party in rule.of]}
    if policy.outputs.max_rows is not None:
        outputs["max_rows"] = policy.outputs.max_rows
    if policy.outputs.files is not None:
        files = policy.outputs.files
        outputs["files"] = {
            "recipients": [str(party) for party in files.recipients],
            "max_bytes": files.max_bytes,
            **({} if files.owner is None else {"owner": str(files.owner)}),
        }
    document: dict[str, Any] = {
        "dataset": policy.dataset,
        "version": policy.version,
        "owner": str(policy.owner),
        "purposes": list(policy.purposes),
        "analysts": [str(party) for party in policy.analysts],
        "expires": when_text(policy.expires),
        "lease": int(policy.lease.total_seconds()),
        "programs": {"approved": list(policy.programs.approved), "sql": policy.programs.sql},
        "columns": {"allow": list(policy.columns.allow), "withhold": list(policy.columns.withhold)},
        "tee": {
            "allow_simulated": policy.tee.allow_simulated,
            "tiers": list(policy.tee.tiers),
            "tcb": list(policy.tee.tcb),
            "advisories_accepted": list(policy.tee.advisories_accepted),
            "measurements": {
                role: list(accepted)
                for role, accepted in policy.tee.measurements.items()
                if accepted or role != "endpoint"
            },
        },
        "outputs": outputs,
    }
    if policy.serving is not None:
        document["serving"] = policy.serving.document()
    if policy.not_before is not None:
        document["not_before"] = when_text(policy.not_before)
    if policy.max_uses is not None:
        document["max_uses"] = policy.max_uses
    return document


def policy_digest(policy: DataUsePolicy) -> str:
    """Return ``sha256:<hex>`` over the policy's canonical form: what grants, HPKE info and the ledger name it by."""
    return to_text(digest("strongroom/policy/v1", canonical_json(policy_document(policy))))


def sign_policy(policy: DataUsePolicy, key: SigningKey) -> Statement:
    """Return the policy signed by its owner; raise PolicyOwnerError if ``key`` is somebody else's."""
    if key.party != policy.owner:
        raise PolicyOwnerError(
            f"the policy names the owner {policy.owner}, the signing key is {key.party}'s",
            hint="sign with the owner's key, or correct the line owner = ...",
        )
    return sign(policy_document(policy), kind=KIND, version=VERSION, key=key)


def verify_policy(statement: Statement) -> DataUsePolicy:
    """Return the policy after verifying that the owner it names signed exactly it.

    Whether that owner owns the dataset, and whether this is the newest version, the catalog knows.
    """
    payload = statement.open(kind=KIND, version=VERSION, signer=None)  # the payload names the owner; compared below
    policy = read_policy(payload)
    if statement.party_fingerprint != policy.owner.fingerprint:
        raise PolicyOwnerError(
            f"the policy names the owner {policy.owner} and is signed by key {statement.party_fingerprint}",
            hint="only the owner of a dataset can sign its policy",
        )
    if canonical_json(policy_document(policy)) != statement.payload:
        raise PolicyFormError(
            "the signed policy is not in the canonical form of version 1",
            hint="sign policies with `strongroom permit`, which writes every key in its one form",
        )
    return policy


def _parties(texts: list[str]) -> tuple[PartyId, ...]:
    return tuple(PartyId.parse(text) for text in texts)
