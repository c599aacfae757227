"""The job as an analyst writes it, and as it is signed: every key, its shape, its default and its example.

This is the door (spec/3-job.md §2-§3): what passes becomes a ``JobSpec`` (spec.py) and is never checked again. The
published JSON Schemas are generated from here.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from strongroom.policy.facts import JOB_KINDS
from strongroom.policy.form import Form
from strongroom.policy.shapes import (
    Columns,
    Location,
    Memory,
    Name,
    Nonce,
    NotEmpty,
    OneOf,
    Parties,
    Party,
    Program,
    Purpose,
    When,
)

TEES = ("any", "sgx", "tdx")
SCHEMES = ("file", "s3", "gs", "abfs", "abfss", "hdfs")
OUTPUT_KINDS = ("table", "files", "kept-files", "answers")
MAX_INPUTS = 64
MAX_WORKERS = 1000
_PARTY = "alice:0123456789abcdef0123456789abcdef"


def _check_location(text: str) -> str:
    """Accept an absolute path or an address whose scheme is known; credentials have no place in a signed job."""
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in SCHEMES:
        raise PydanticCustomError(
            "location", "a path, or an address that begins with {schemes}", {"schemes": ", ".join(SCHEMES)}
        )
    # abfs writes container@account, which is no credential; a password, a query and a fragment may always be one.
    if parts.password is not None or parts.query or parts.fragment or (parts.username and "abfs" not in parts.scheme):
        raise PydanticCustomError("location", "an address without credentials: the job is read by every party")
    return text


class InputForm(Form):
    """One dataset that the job reads; its name is the dataset's, and the table's in SQL."""

    owner: Party = Field(description="the party id of the dataset's owner", examples=[f'owner = "{_PARTY}"'])
    columns: Annotated[Columns, NotEmpty] = Field(
        description='the columns to open, or ["*"] for the whole dataset', examples=['columns = ["age", "city"]']
    )
    location: Annotated[Location, AfterValidator(_check_location)] = Field(
        description="where the encrypted dataset lies", examples=['location = "s3://bucket/flights"']
    )

    @field_validator("columns")
    @classmethod
    def _star_stands_alone(cls, columns: list[str]) -> list[str]:
        if "*" in columns and len(columns) > 1:
            raise PydanticCustomError("star", '"*" alone, or the names of columns')
        return columns


class OutputForm(Form):
    """One result of the job."""

    recipients: Annotated[Parties, NotEmpty] = Field(
        description="the parties the result is encrypted to", examples=[f'recipients = ["{_PARTY}"]']
    )
    kind: Annotated[str, OneOf(OUTPUT_KINDS)] = Field(
        default="table",
        description="a table that leaves, files that leave (a model), files that stay inside as a dataset, or answers "
        "that an endpoint gives to its recipients",
        examples=['kind = "files"'],
    )
    version: int = Field(
        default=1,
        ge=1,
        le=1_000_000_000,
        description="the version of the dataset that files which stay inside become; its name is the output's",
        examples=["version = 2"],
    )


class ClusterForm(Form):
    """The cluster that the job wants."""

    workers: int = Field(default=1, ge=1, le=MAX_WORKERS, description="how many workers", examples=["workers = 2"])
    most_workers: int = Field(
        default=0,
        ge=0,
        le=MAX_WORKERS,
        description="how many there may be when there is much to do: Spark then moves between workers and this; "
        "0 is a fixed number",
        examples=["most_workers = 8"],
    )
    worker_memory: Memory = Field(default="2g", description="memory of one worker", examples=['worker_memory = "4g"'])
    worker_cores: int = Field(default=1, ge=1, le=256, description="cores of one worker", examples=["worker_cores = 2"])
    tee: Annotated[str, OneOf(TEES)] = Field(
        default="any",
        description="the kind of TEE to run in; the owners' policies decide anyway",
        examples=['tee = "tdx"'],
    )

    @field_validator("most_workers")
    @classmethod
    def _no_fewer_than_workers(cls, most: int, info: ValidationInfo) -> int:
        if 0 < most < info.data.get("workers", 1):
            raise PydanticCustomError("most", "no fewer than workers, or 0")
        return most


Inputs = Annotated[dict[Name, InputForm], NotEmpty]
Outputs = Annotated[dict[Name, OutputForm], NotEmpty]


class _Asked(Form):
    """What a job says in both its forms."""

    name: Name = Field(description="the job's name", examples=['name = "delays-by-carrier"'])
    kind: Annotated[str, OneOf(JOB_KINDS)] = Field(description="what the program is", examples=['kind = "sql"'])
    purpose: Purpose = Field(
        description="what the result is for, in the words of the owners' policies",
        examples=['purpose = "fraud research"'],
    )
    inputs: Inputs = Field(
        description="one table [inputs.NAME] for each dataset", examples=["[inputs.flights]"], max_length=MAX_INPUTS
    )
    outputs: Outputs = Field(
        description="one table [outputs.NAME] for each result", examples=["[outputs.result]"], max_length=MAX_INPUTS
    )
    cluster: ClusterForm = Field(default=ClusterForm(), description="the table [cluster]", examples=["[cluster]"])

    @field_validator("outputs", check_fields=False)
    @classmethod
    def _outputs_of_kind(cls, outputs: Outputs, info: ValidationInfo) -> Outputs:
        kind, shapes = info.data.get("kind"), [output.kind for output in outputs.values()]
        if (kind == "serve") != ("answers" in shapes) or (kind == "serve" and shapes != ["answers"]):
            raise PydanticCustomError(
                "answers", 'exactly one output, of kind "answers", in a job of kind serve, and none in any other job'
            )
        if kind == "sql" and shapes != ["table"]:
            raise PydanticCustomError(
                "single", "exactly one output, a table: the kind is sql, and a query has one result"
            )
        return outputs


class JobForm(_Asked):
    """A job in TOML, as an analyst writes it."""

    model_config = ConfigDict(title="Strongroom job, version 1")

    program: str = Field(
        min_length=1,
        max_length=4096,
        description="the program's file, relative to this one",
        examples=['program = "query.sql"'],
    )


class SignedJobForm(_Asked):
    """A job as it is signed."""

    model_config = ConfigDict(title="Strongroom signed job, version 1")

    analyst: Party = Field(description="the party id of the analyst who signs")
    program_digest: Program = Field(description="the SHA-256 digest of the program's bytes")
    created: When = Field(description="when the job was made")
    nonce: Nonce = Field(description="what tells two runs of one job apart")
