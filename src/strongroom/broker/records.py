"""What the broker knows about datasets, jobs and outputs, and how each is written into the sealed store.

Every record is parsed from verified statements; signatures are not checked again on the way out of the sealed store,
because nothing else can have put a record in.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from strongroom.catalog.store import Change
from strongroom.envelope.keys import DataKey, reveal
from strongroom.statements import PartyId

MEMBER, DATASET, POLICY, USES, REVOCATION, JOB, OUTPUT, APPROVAL, ANSWERS, COLLATERAL = (
    "member",
    "dataset",
    "policy",
    "uses",
    "revocation",
    "job",
    "output",
    "approval",
    "answers",
    "collateral",
)
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


def time_text(moment: datetime) -> str:
    """Return a time as records and entries write it."""
    return moment.astimezone(UTC).strftime(_TIME)


def parse_time(text: str) -> datetime:
    """Return the time that :func:`time_text` wrote."""
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One registered version of a dataset, with the key that opens it."""

    name: str
    version: int
    revision: int
    owner: PartyId
    kind: str
    columns: tuple[str, ...]
    manifest_digest: str
    content: str
    dek: DataKey

    @property
    def key(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"

    def to_change(self) -> Change:
        """Return the record for the sealed store."""
        return _change(
            DATASET,
            self.key,
            {
                "name": self.name,
                "version": self.version,
                "revision": self.revision,
                "owner": str(self.owner),
                "kind": self.kind,
                "columns": list(self.columns),
                "manifest_digest": self.manifest_digest,
                "content": self.content,
                "dek": base64.b64encode(reveal(self.dek)).decode(),
            },
        )

    @classmethod
    def from_change(cls, change: Change) -> Self:
        """Return the dataset that :meth:`to_change` wrote."""
        value = json.loads(change.value)
        return cls(
            name=value["name"],
            version=value["version"],
            revision=value["revision"],
            owner=PartyId.parse(value["owner"]),
            kind=value["kind"],
            columns=tuple(value["columns"]),
            manifest_digest=value["manifest_digest"],
            content=value["content"],
            dek=DataKey(base64.b64decode(value["dek"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """One input of a job, pinned to the version that was newest when the job was submitted."""

    dataset: str
    version: int
    columns: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return ``name@version``."""
        return f"{self.dataset}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One submitted job: what was signed, what it may open, who drives it."""

    id: str
    digest: str
    analyst: PartyId
    purpose: str
    kind: str
    program: str
    inputs: tuple[JobInput, ...]
    outputs: Mapping[str, tuple[PartyId, ...]]
    ticket: bytes
    driver: bytes
    opened: bool
    output_key: DataKey
    submitted: datetime

    @property
    def recipients(self) -> tuple[PartyId, ...]:
        """Return every recipient of any output, once."""
        return tuple(dict.fromkeys(party for parties in self.outputs.values() for party in parties))

    def bound_to(self, driver: bytes) -> Self:
        """Return the job driven by the key bundle with digest ``driver``."""
        return replace(self, driver=driver)

    def to_change(self) -> Change:
        """Return the record for the sealed store."""
        return _change(
            JOB,
            self.id,
            {
                "digest": self.digest,
                "analyst": str(self.analyst),
                "purpose": self.purpose,
                "kind": self.kind,
                "program": self.program,
                "inputs": [[one.dataset, one.version, list(one.columns)] for one in self.inputs],
                "outputs": {name: [str(party) for party in parties] for name, parties in self.outputs.items()},
                "ticket": self.ticket.hex(),
                "driver": self.driver.hex(),
                "opened": self.opened,
                "output_key": base64.b64encode(reveal(self.output_key)).decode(),
                "submitted": time_text(self.submitted),
            },
        )

    @classmethod
    def from_change(cls, change: Change) -> Self:
        """Return the job that :meth:`to_change` wrote."""
        value = json.loads(change.value)
        return cls(
            id=change.key,
            digest=value["digest"],
            analyst=PartyId.parse(value["analyst"]),
            purpose=value["purpose"],
            kind=value["kind"],
            program=value["program"],
            inputs=tuple(
                JobInput(dataset=name, version=version, columns=tuple(columns))
                for name, version, columns in value["inputs"]
            ),
            outputs={
                name: tuple(PartyId.parse(party) for party in parties) for name, parties in value["outputs"].items()
            },
            ticket=bytes.fromhex(value["ticket"]),
            driver=bytes.fromhex(value["driver"]),
            opened=value["opened"],
            output_key=DataKey(base64.b64decode(value["output_key"])),
            submitted=parse_time(value["submitted"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One output as egress ruled on it, with its key sealed to each recipient (by fingerprint)."""

    job: str
    name: str
    digest: str
    location: str
    details: Mapping[str, Any]
    reasons: tuple[str, ...]
    sealed: Mapping[str, str]
    created: datetime

    @property
    def id(self) -> str:
        """Return ``job/name``."""
        return f"{self.job}/{self.name}"

    def to_change(self) -> Change:
        """Return the record for the sealed store."""
        value = {
            "digest": self.digest,
            "location": self.location,
            "details": dict(self.details),
            "reasons": list(self.reasons),
            "sealed": dict(self.sealed),
            "created": time_text(self.created),
        }
        return _change(OUTPUT, self.id, value)

    @classmethod
    def from_change(cls, change: Change) -> Self:
        """Return the output that :meth:`to_change` wrote."""
        value = json.loads(change.value)
        job, _, name = change.key.partition("/")
        return cls(
            job=job,
            name=name,
            digest=value["digest"],
            location=value["location"],
            details=value["details"],
            reasons=tuple(value["reasons"]),
            sealed=value["sealed"],
            created=parse_time(value["created"]),
        )


def text_change(kind: str, key: str, text: str) -> Change:
    """Return a record that is a text of its own, such as a statement."""
    return Change(kind=kind, key=key, value=text.encode())


def _change(kind: str, key: str, value: Mapping[str, Any]) -> Change:
    return Change(kind=kind, key=key, value=json.dumps(value).encode())
