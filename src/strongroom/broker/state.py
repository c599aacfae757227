"""Hold in memory what the sealed store holds on disk; decisions read it, the book writes it (spec/4-release.md §5).

It changes at the moment of a decision and the reply waits for the disk, so two requests never share one last use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from strongroom.broker.keys import KIND as BROKER_KEYS
from strongroom.broker.keys import BrokerKeys
from strongroom.broker.records import (
    ANSWERS,
    APPROVAL,
    COLLATERAL,
    DATASET,
    JOB,
    MEMBER,
    OUTPUT,
    POLICY,
    REVOCATION,
    USES,
    Dataset,
    Job,
    Output,
)
from strongroom.catalog.identity import Identity, verify_identity
from strongroom.catalog.store import Change, StoreError
from strongroom.policy.document import DataUsePolicy, policy_digest, verify_policy
from strongroom.statements import PartyId, Statement


class State:
    """Members, datasets, policies, jobs and outputs, by name."""

    def __init__(self) -> None:
        self.keys: BrokerKeys | None = None
        self.members: dict[str, Identity] = {}  # by fingerprint
        self.datasets: dict[str, Dataset] = {}  # by name@version
        self.newest: dict[str, Dataset] = {}  # by name
        self.policies: dict[str, DataUsePolicy] = {}  # by dataset name
        self.policy_digests: dict[str, str] = {}  # by dataset name
        self.uses: dict[str, int] = {}  # by name@version
        self.revoked: dict[str, str] = {}  # name@version to reason
        self.jobs: dict[str, Job] = {}  # by job id
        self.outputs: dict[str, Output] = {}  # by job/name
        self.answers: dict[str, str] = {}  # quota/dataset/fingerprint/seconds, and job/id, to JSON
        self.collateral = ""  # the newest documents that any appraisal rested on (attestation.memory)
        self.approvals: dict[str, dict[str, str]] = {}  # job/name to fingerprint to approved digest
        self.revision = 0  # It moves with every change, so what was read at the same one is as it was.

    @classmethod
    def load(cls, changes: Iterable[Change]) -> State:
        """Return the state that the store's records add up to."""
        state = cls()
        for change in changes:
            state.apply(change)
        return state

    def apply(self, *changes: Change) -> None:
        """Take over ``changes``, as they were decided or as they were stored."""
        for change in changes:
            self._apply(change)

    def member(self, fingerprint: str) -> Identity | None:
        """Return the member whose signing key has ``fingerprint``."""
        return self.members.get(fingerprint)

    def is_revoked(self, key: str) -> bool:
        """Return whether the dataset version ``name@version`` was revoked."""
        return key in self.revoked

    def _apply(self, change: Change) -> None:
        self.revision += 1
        if change.kind == MEMBER:
            identity = verify_identity(Statement.decode(change.value))
            self.members[identity.party.fingerprint] = identity
        elif change.kind == DATASET:
            self._take_dataset(Dataset.from_change(change))
        elif change.kind == POLICY:
            policy = verify_policy(Statement.decode(change.value))
            self.policies[policy.dataset] = policy
            self.policy_digests[policy.dataset] = policy_digest(policy)
        elif change.kind == COLLATERAL:
            self.collateral = change.value.decode()
        elif change.kind == ANSWERS:
            self.answers[change.key] = change.value.decode()
        elif change.kind == USES:
            self.uses[change.key] = int(change.value)
        elif change.kind == REVOCATION:
            self.revoked[change.key] = change.value.decode()
        elif change.kind == JOB:
            job = Job.from_change(change)
            self.jobs[job.id] = job
        elif change.kind == OUTPUT:
            output = Output.from_change(change)
            self.outputs[output.id] = output
        elif change.kind == APPROVAL:
            value = json.loads(change.value)
            self.approvals.setdefault(value["output"], {})[value["fingerprint"]] = value["digest"]
        elif change.kind == BROKER_KEYS:
            self.keys = BrokerKeys.from_change(change)
        else:
            raise StoreError(f"the store holds a record of unknown kind {change.kind!r}")

    def _take_dataset(self, dataset: Dataset) -> None:
        self.datasets[dataset.key] = dataset
        known = self.newest.get(dataset.name)
        if known is None or known.version < dataset.version:
            self.newest[dataset.name] = dataset


def approval_change(*, output: str, party: PartyId, digest: str) -> Change:
    """Return the record of one party's approval of one output."""
    value = {"output": output, "fingerprint": party.fingerprint, "digest": digest}
    return Change(kind=APPROVAL, key=f"{output}/{party.fingerprint}", value=json.dumps(value).encode())
