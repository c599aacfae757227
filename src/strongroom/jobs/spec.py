"""What an analyst asks to run: the job, read from TOML, signed together with its program, and verified (spec/3-job.md).

A job names everything that a policy rules on; nothing about it is decided later. It never carries a credential, and its
program runs only if its bytes are those that were signed.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from strongroom.digests import bytes_digest, digest384, to_text
from strongroom.errors import PolicyError
from strongroom.jobs.form import JobForm, SignedJobForm
from strongroom.policy.problems import MAX_DOCUMENT_BYTES, parse_toml, read_form
from strongroom.policy.shapes import when_text
from strongroom.statements import PartyId, SigningKey, Statement, canonical_json, sign

KIND = "job"
VERSION = 1
MAX_PROGRAM_BYTES = 1 << 20


class JobError(PolicyError):
    """A job cannot be read, is not what was signed, or is not signed by its analyst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """One dataset that the job reads: whose it is, which columns (``("*",)``: all), and where its ciphertext lies."""

    owner: PartyId
    columns: tuple[str, ...]
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutput:
    """One result of the job: the parties it is encrypted to, and its kind (``OUTPUT_KINDS``).

    ``version`` is that of the dataset which files that stay inside become.
    """

    recipients: tuple[PartyId, ...]
    kind: str = "table"
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDraft:
    """A job before its analyst signs it, with its program's bytes; ``created`` is UTC, ``nonce`` 32 hex digits."""

    name: str
    kind: str
    purpose: str
    inputs: Mapping[str, JobInput]
    outputs: Mapping[str, JobOutput]
    workers: int
    most_workers: int
    worker_memory: str
    worker_cores: int
    tee: str
    program: bytes
    created: datetime
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A verified job; ``inputs`` and ``outputs`` are keyed by name, an input by its dataset's, which is its table's."""

    name: str
    kind: str
    purpose: str
    program_digest: str
    inputs: Mapping[str, JobInput]
    outputs: Mapping[str, JobOutput]
    workers: int
    most_workers: int
    worker_memory: str
    worker_cores: int
    tee: str
    analyst: PartyId
    created: datetime
    nonce: str

    @property
    def recipients(self) -> tuple[PartyId, ...]:
        """Return the recipients of all outputs, each once."""
        return tuple(dict.fromkeys(party for output in self.outputs.values() for party in output.recipients))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedJob:
    """A signed job with the bytes of its program, as it travels; nothing in it is verified until ``verify`` returns."""

    statement: Statement
    program: bytes

    @property
    def digest(self) -> str:
        """Return the job's digest, ``sha384:<hex>``."""
        return job_digest(self.statement)

    def verify(self) -> JobSpec:
        """Return the job after verifying signature and program."""
        return verify_job(self.statement, self.program)

    def encode(self) -> bytes:
        """Return the job as JSON."""
        program = base64.b64encode(self.program).decode()
        return json.dumps({"statement": self.statement.encode(), "program": program}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse what ``encode`` wrote; raise PolicyError for anything else."""
        try:
            document = json.loads(data)
            if set(document) != {"statement", "program"}:
                raise JobError("a signed job has a statement and a program, and nothing else")
            program = base64.b64decode(document["program"], validate=True)
            return cls(statement=Statement.decode(document["statement"]), program=program)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
            raise JobError("not a signed job (a statement and a program in JSON)") from error


def load_job(path: Path) -> JobDraft:
    """Read a job and its program from files; relative paths in it are relative to its folder.

    Raise DocumentError, listing every problem, if the job is malformed, and JobError if a file cannot be read.
    """
    text = _read(path, what="the job", most=MAX_DOCUMENT_BYTES)
    try:
        document = parse_toml(text.decode(), what=f"the job {path.name}")
    except UnicodeDecodeError as error:
        raise JobError(f"the job {path} is not UTF-8 text", hint="save it as UTF-8") from error
    form = read_form(JobForm, document, what=f"the job {path.name}")
    folder = path.resolve().parent
    program = _read(folder / form.program, what="the program", most=MAX_PROGRAM_BYTES)
    return draft_job(form, program, folder=folder, created=datetime.now(UTC), nonce=secrets.token_hex(16))


def draft_job(form: JobForm, program: bytes, *, folder: Path, created: datetime, nonce: str) -> JobDraft:
    """Return the draft of a job; locations without a scheme are resolved against ``folder``."""
    _check_program(program)
    return JobDraft(
        name=form.name,
        kind=form.kind,
        purpose=form.purpose,
        inputs=MappingProxyType(
            {
                name: JobInput(
                    owner=PartyId.parse(given.owner),
                    columns=tuple(given.columns),
                    location=given.location if "://" in given.location else str(folder / given.location),
                )
                for name, given in form.inputs.items()
            }
        ),
        outputs=_outputs(form),
        workers=form.cluster.workers,
        most_workers=form.cluster.most_workers or form.cluster.workers,
        worker_memory=form.cluster.worker_memory,
        worker_cores=form.cluster.worker_cores,
        tee=form.cluster.tee,
        program=program,
        created=created.replace(microsecond=0),
        nonce=nonce,
    )


def sign_job(draft: JobDraft, key: SigningKey) -> SignedJob:
    """Return the job signed by the analyst whose key this is; the same draft and key give the same job."""
    spec = JobSpec(
        name=draft.name,
        kind=draft.kind,
        purpose=draft.purpose,
        program_digest=bytes_digest(draft.program),
        inputs=draft.inputs,
        outputs=draft.outputs,
        workers=draft.workers,
        most_workers=draft.most_workers,
        worker_memory=draft.worker_memory,
        worker_cores=draft.worker_cores,
        tee=draft.tee,
        analyst=key.party,
        created=draft.created,
        nonce=draft.nonce,
    )
    statement = sign(job_document(spec), kind=KIND, version=VERSION, key=key)
    verify_job(statement, draft.program)  # what cannot be verified is not handed out
    return SignedJob(statement=statement, program=draft.program)


def verify_job(statement: Statement, program: bytes) -> JobSpec:
    """Return the job after verifying that the analyst it names signed it, and that ``program`` is the one signed."""
    spec = verify_spec(statement)
    _check_program(program)
    got = bytes_digest(program)
    if got != spec.program_digest:
        raise JobError(
            f"the program has digest {got}, the job was signed with {spec.program_digest}",
            hint="the program was changed after the job was signed; submit again",
        )
    return spec


def verify_spec(statement: Statement) -> JobSpec:
    """Return the job after verifying that the analyst it names signed it; its program is not at hand.

    The broker, which never needs the program's bytes, rules on ``program_digest``.
    """
    payload = statement.open(kind=KIND, version=VERSION, signer=None)  # the payload names the analyst; compared below
    form = read_form(SignedJobForm, payload, what="the signed job")
    spec = JobSpec(
        name=form.name,
        kind=form.kind,
        purpose=form.purpose,
        program_digest=form.program_digest,
        inputs=MappingProxyType(
            {
                name: JobInput(owner=PartyId.parse(given.owner), columns=tuple(given.columns), location=given.location)
                for name, given in form.inputs.items()
            }
        ),
        outputs=_outputs(form),
        workers=form.cluster.workers,
        most_workers=form.cluster.most_workers or form.cluster.workers,
        worker_memory=form.cluster.worker_memory,
        worker_cores=form.cluster.worker_cores,
        tee=form.cluster.tee,
        analyst=PartyId.parse(form.analyst),
        created=form.created,
        nonce=form.nonce,
    )
    if statement.party_fingerprint != spec.analyst.fingerprint:
        raise JobError(
            f"the job names the analyst {spec.analyst} and is signed by key {statement.party_fingerprint}",
            hint="only the analyst whose job it is can sign it",
        )
    if canonical_json(job_document(spec)) != statement.payload:
        raise JobError(
            "the signed job is not in the canonical form of version 1", hint="sign jobs with `strongroom submit`"
        )
    return spec


def job_digest(statement: Statement) -> str:
    """Return ``sha384:<hex>`` over the signed job, and through its program digest over the program.

    This is the job digest that evidence is bound to (spec/4-release.md §2).
    """
    return to_text(digest384("strongroom/job/v1", statement.payload))


def job_document(spec: JobSpec) -> dict[str, Any]:
    """Return the job as the JSON object that is signed: every key, defaults written out."""
    return {
        "name": spec.name,
        "kind": spec.kind,
        "purpose": spec.purpose,
        "program_digest": spec.program_digest,
        "inputs": {
            name: {"owner": str(given.owner), "columns": list(given.columns), "location": given.location}
            for name, given in spec.inputs.items()
        },
        "outputs": {
            name: {
                "recipients": [str(party) for party in output.recipients],
                "kind": output.kind,
                "version": output.version,
            }
            for name, output in spec.outputs.items()
        },
        "cluster": {
            "workers": spec.workers,
            "most_workers": spec.most_workers,
            "worker_memory": spec.worker_memory,
            "worker_cores": spec.worker_cores,
            "tee": spec.tee,
        },
        "analyst": str(spec.analyst),
        "created": when_text(spec.created),
        "nonce": spec.nonce,
    }


def _outputs(form: JobForm | SignedJobForm) -> Mapping[str, JobOutput]:
    return MappingProxyType(
        {
            name: JobOutput(
                recipients=tuple(PartyId.parse(text) for text in output.recipients),
                kind=output.kind,
                version=output.version,
            )
            for name, output in form.outputs.items()
        }
    )


def _check_program(program: bytes) -> None:
    if not program.strip():
        raise JobError("the program is empty")
    if len(program) > MAX_PROGRAM_BYTES:
        raise JobError(f"the program has {len(program)} bytes, must have at most {MAX_PROGRAM_BYTES}")
    try:
        program.decode()
    except UnicodeDecodeError as error:
        raise JobError("the program is not UTF-8 text", hint="a program is one .sql or .py file") from error


def _read(path: Path, *, what: str, most: int) -> bytes:
    """Return a file's bytes; never more than ``most``, whatever the file is."""
    try:
        if not path.is_file():
            raise JobError(f"{what} {path} is not a file", hint="paths in a job are relative to the job's own folder")
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise JobError(
            f"{what} {path} cannot be read: {error.strerror}", hint="check its path and permissions"
        ) from error
    except ValueError as error:
        raise JobError(f"{what} has an impossible path: {str(path)[:80]!r}") from error
    if len(data) > most:
        raise JobError(f"{what} {path} has more than {most} bytes", hint="data belongs into inputs, not into the job")
    return data
