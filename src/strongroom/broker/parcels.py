"""Make up what a role of a job is handed under its policies, and what the ledger says of it (spec/4-release.md §8).

Everything here follows from policies, records and facts that never change, so it is made up once and kept. Nothing here
is a decision: every release is ruled on anew, and only the very policies that were ruled on find their parcel.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import cbor2

from strongroom.attestation.roles import Role
from strongroom.broker.records import Dataset, Job
from strongroom.broker.release import Standing, abridge
from strongroom.broker.seals import release_terms
from strongroom.broker.state import State
from strongroom.digests import parse_text
from strongroom.envelope.keys import DatasetKeys, reveal
from strongroom.ledger.entry import Entry, EntryForm, EntryKind
from strongroom.policy.evaluate import Grant
from strongroom.policy.fusion import fuse

MAX_KEPT = 1024
_SHOWN_COLUMNS = 256
_BLANKS = ("key", "expires")

Place = TypeVar("Place")
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parcel:
    """What one role of a job is handed under one set of policies."""

    plain: bytes = field(repr=False)
    granted: tuple[tuple[str, int, str], ...]
    policy_digest: str
    terms: bytes
    described: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """An earlier release: what the grant rested on, what was handed over and what was written."""

    standing: Standing
    parcel: Parcel
    form: EntryForm


class Parcels:
    """The parcels and ledger forms made up last."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._parcels: OrderedDict[tuple[object, ...], Parcel] = OrderedDict()
        self._forms: OrderedDict[tuple[object, ...], EntryForm] = OrderedDict()

    def make_up(self, role: Role, job: Job, grants: Sequence[Grant], wanted: frozenset[str]) -> Parcel:
        """Return what ``role`` of ``job`` is handed of ``wanted`` under the policies that ``grants`` are by."""
        recipients: dict[str, bytes] = {}
        if role is Role.EGRESS:
            known = [(party.fingerprint, self._state.members.get(party.fingerprint)) for party in job.recipients]
            recipients = {fingerprint: member.kem_public for fingerprint, member in known if member is not None}
        inputs = [(self._state.datasets[one.key], grant) for one, grant in zip(job.inputs, grants, strict=True)]
        place = (
            job.digest,
            role,
            wanted,
            *((dataset.key, dataset.revision, grant.policy_digest) for dataset, grant in inputs),
            *recipients.items(),
        )
        parcel = self._parcels.get(place)
        if parcel is None:
            parcel = self._make(role, job, inputs, wanted, recipients)
            keep(self._parcels, place, parcel)
        return parcel

    def form(self, parcel: Parcel, *, facts: Mapping[str, Any], time: datetime) -> EntryForm:
        """Return what the ledger says of a grant of ``parcel`` under ``facts``, with blanks for key and expiry."""
        place = (parcel, *(value for name, value in facts.items() if name not in _BLANKS))
        form = self._forms.get(place)
        if form is None:
            said = {**facts, "datasets": list(parcel.described), "policy": parcel.policy_digest}
            entry = Entry(kind=EntryKind.GRANT, time=time, facts={**said, **dict.fromkeys(_BLANKS, "")})
            form = entry.form(*_BLANKS)
            if not form.fits:  # Then a digest stands for its facts, the blanks being empty.
                form = abridge(entry).form(*_BLANKS)
            keep(self._forms, place, form)
        return form

    def _make(
        self,
        role: Role,
        job: Job,
        inputs: Sequence[tuple[Dataset, Grant]],
        wanted: frozenset[str],
        recipients: Mapping[str, bytes],
    ) -> Parcel:
        fused = fuse([self._state.policies[one.dataset] for one in job.inputs])
        asked = [(dataset, grant) for dataset, grant in inputs if dataset.name in wanted]
        released = [] if role is Role.EGRESS else asked  # Egress sees outputs, so it gets no key of an input.
        granted = tuple((dataset.name, dataset.version, grant.policy_digest) for dataset, grant in asked)
        bundles = [_bundle(dataset, grant) for dataset, grant in released]
        contents = {dataset.name: dataset.content for dataset, _ in released}
        return Parcel(
            plain=cbor2.dumps([bundles, reveal(job.output_key), fused.encode(), dict(recipients), contents]),
            granted=granted,
            policy_digest=fused.digest,
            terms=release_terms(job_digest=parse_text(job.digest), datasets=granted, policy_digest=fused.digest),
            described=tuple(_describe(dataset, grant) for dataset, grant in released),
        )


def keep(kept: OrderedDict[Place, Kept], place: Place, value: Kept) -> None:
    """Put ``value`` at ``place``, and let the oldest give way when there are too many."""
    kept[place] = value
    if len(kept) > MAX_KEPT:
        kept.popitem(last=False)


def _bundle(dataset: Dataset, grant: Grant) -> bytes:
    """Return the encoded keys of one dataset: the columns granted and no other."""
    if dataset.kind != "table":
        return DatasetKeys.for_files(dataset.dek, dataset=dataset.name, version=dataset.version).encode()
    columns = dataset.columns if not grant.columns or "*" in grant.columns else grant.columns
    return DatasetKeys.from_dek(dataset.dek, dataset=dataset.name, version=dataset.version, columns=columns).encode()


def _describe(dataset: Dataset, grant: Grant) -> dict[str, Any]:
    """Return what the ledger says of one dataset's grant."""
    return {
        "dataset": dataset.name,
        "version": dataset.version,
        "policy": grant.policy_digest,
        "columns": list(grant.columns[:_SHOWN_COLUMNS]) or ["*"],
        "columns_count": len(grant.columns),
    }
