"""The data-use policy as it is written: every key, its shape, its safe default and its example (spec/2-policy.md §2).

This is the door. What passes it becomes a ``DataUsePolicy`` (document.py) and is never checked again; what does not is
answered with every problem at once. The published JSON Schema is generated from here.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from strongroom.policy.shapes import (
    Advisory,
    Column,
    Columns,
    Distinct,
    Measurement,
    Name,
    NotEmpty,
    OneOf,
    Parties,
    Party,
    Program,
    Purpose,
    When,
)

# Results of simulated TEEs are contraindicated and are allowed by name only (tee.allow_simulated); a real one never is.
TIERS = ("affirming", "warning")
# Revoked is not among them: no policy can accept a revoked platform.
TCB_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
ROLES = ("driver", "worker", "egress", "endpoint")
ANSWER_KINDS = ("labels", "scores", "text")
DEFAULT_GROUP = 10
DEFAULT_LEASE_SECONDS = 300
DEFAULT_FILES_BYTES = 10_000_000
DEFAULT_DIGITS = 3
DEFAULT_TOKENS = 256
_MOST = 1_000_000_000
_PARTY = "bank:0123456789abcdef0123456789abcdef"


class Form(BaseModel):
    """A table of a document: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ProgramsForm(Form):
    """Which programs may run."""

    approved: Annotated[list[Program], Distinct] = Field(
        default=[],
        description="digests of the programs that may run, of any kind",
        examples=['approved = ["sha256:' + "0" * 64 + '"]'],
    )
    sql: bool = Field(
        default=False,
        description="whether every SQL query that passes the checks of minimum_group may run",
        examples=["sql = true"],
    )


class ColumnsForm(Form):
    """Which columns may be opened."""

    allow: Columns = Field(
        description='the columns whose keys may be released, or ["*"] for all but those withheld; [] allows none',
        examples=['allow = ["age", "city"]'],
    )
    withhold: Columns = Field(
        default=[],
        description="columns whose keys are never released",
        examples=['withhold = ["name"]'],
    )

    @field_validator("allow")
    @classmethod
    def _star_stands_alone(cls, allow: list[str]) -> list[str]:
        if "*" in allow and len(allow) > 1:
            raise PydanticCustomError("star", '"*" alone, or the names of columns')
        return allow

    @field_validator("withhold")
    @classmethod
    def _withhold_names(cls, withhold: list[str]) -> list[str]:
        if "*" in withhold:
            raise PydanticCustomError("star", "names of columns; to allow none, write allow = []")
        return withhold


class MeasurementsForm(Form):
    """The measurements that each role of a job must have."""

    driver: Annotated[list[Measurement], Distinct] = Field(
        description="measurements of drivers that may hold keys; [] accepts none",
        examples=['driver = ["sgx:' + "0" * 64 + '"]'],
    )
    worker: Annotated[list[Measurement], Distinct] = Field(
        description="measurements of workers that may hold keys; [] accepts none",
        examples=['worker = ["sgx:' + "0" * 64 + '"]'],
    )
    egress: Annotated[list[Measurement], Distinct] = Field(
        description="measurements of egress processes that may hold keys; [] accepts none",
        examples=['egress = ["sgx:' + "0" * 64 + '"]'],
    )
    endpoint: Annotated[list[Measurement], Distinct] = Field(
        default=[],
        description="measurements of endpoints that may hold keys to answer callers; [] accepts none",
        examples=['endpoint = ["sgx:' + "0" * 64 + '"]'],
    )


class TeeForm(Form):
    """Which trusted execution environments may hold keys."""

    allow_simulated: bool = Field(
        default=False,
        description="whether a simulated TEE, which protects nothing, is accepted",
        examples=["allow_simulated = false"],
    )
    tiers: Annotated[list[Annotated[str, OneOf(TIERS)]], Distinct] = Field(
        default=["affirming"],
        description="the trust tiers of attestation results that are accepted; [] accepts none",
        examples=['tiers = ["affirming"]'],
    )
    tcb: Annotated[list[Annotated[str, OneOf(TCB_STATUSES)]], Distinct] = Field(
        default=["UpToDate"],
        description="the TCB statuses that are accepted; [] accepts none",
        examples=['tcb = ["UpToDate", "SWHardeningNeeded"]'],
    )
    advisories_accepted: Annotated[list[Advisory], Distinct] = Field(
        default=[],
        description="security advisories that may be open on the platform",
        examples=['advisories_accepted = ["INTEL-SA-00615"]'],
    )
    measurements: MeasurementsForm = Field(
        description="the table [tee.measurements] with driver, worker and egress", examples=["[tee.measurements]"]
    )


class MinimumGroupForm(Form):
    """How many of this dataset's rows, or of what a column names, stand behind every row of a SQL result."""

    size: int = Field(
        default=DEFAULT_GROUP,
        ge=1,
        le=_MOST,
        description="the least number behind every row of a SQL result; 1 switches the rule off",
        examples=["size = 10"],
    )
    unit: Column | None = Field(
        default=None,
        description="the column that names whom the rule protects; without it, every row counts",
        examples=['unit = "customer_id"'],
    )


class ApprovalsForm(Form):
    """How many of which parties approve an output before its key is released."""

    needed: int = Field(
        ge=1, le=1000, description="how many of the parties in `of` must approve every output", examples=["needed = 1"]
    )
    of: Parties = Field(description="the parties who may approve", examples=[f'of = ["{_PARTY}"]'])

    @field_validator("of")
    @classmethod
    def _reachable(cls, of: list[str], info: ValidationInfo) -> list[str]:
        needed = info.data.get("needed", 1)
        if len(of) < needed:
            raise PydanticCustomError("reach", "at least the {needed} parties that are needed", {"needed": needed})
        return of


class FilesForm(Form):
    """Which outputs of files, such as models, may leave: a model may remember the rows that it was trained on."""

    recipients: Parties = Field(
        description="the parties that may take the files out; [] allows none", examples=[f'recipients = ["{_PARTY}"]']
    )
    owner: Party | None = Field(
        default=None,
        description="whose dataset the files become if they stay inside; without it, none may stay",
        examples=[f'owner = "{_PARTY}"'],
    )
    max_bytes: int = Field(
        default=DEFAULT_FILES_BYTES,
        ge=1,
        le=1 << 40,
        description="the most bytes that the files of one output may have together",
        examples=["max_bytes = 1000000"],
    )


class QuotaForm(Form):
    """How many answers one caller gets in each window of time."""

    answers: int = Field(ge=1, le=_MOST, description="the most answers to one caller", examples=["answers = 1000"])
    seconds: int = Field(
        ge=1, le=31_622_400, description="in each window of so many seconds", examples=["seconds = 3600"]
    )


class AnswersForm(Form):
    """What an answer may hold."""

    kinds: Annotated[list[Annotated[str, OneOf(ANSWER_KINDS)]], Distinct] = Field(
        description="labels from a closed list, rounded scores, generated text; [] allows none",
        examples=['kinds = ["labels"]'],
    )
    digits: int = Field(
        default=DEFAULT_DIGITS,
        ge=1,
        le=15,
        description="the most digits of a score, none of them beyond so many decimals",
        examples=["digits = 3"],
    )
    top: int | None = Field(
        default=None,
        ge=1,
        le=_MOST,
        description="the most scores of one answer, the largest; without it, all",
        examples=["top = 3"],
    )
    tokens: int = Field(
        default=DEFAULT_TOKENS,
        ge=1,
        le=1_000_000,
        description="the most pieces of generated text in one answer",
        examples=["tokens = 256"],
    )


class ServingForm(Form):
    """Who may ask a model that stays inside, how often, and what an answer may hold."""

    callers: Parties = Field(
        description="the parties that may ask; [] allows none", examples=[f'callers = ["{_PARTY}"]']
    )
    quotas: Annotated[list[QuotaForm], NotEmpty] = Field(
        description="how many answers one caller gets, each of them to be kept",
        examples=["quotas = [{ answers = 1000, seconds = 3600 }]"],
        max_length=16,
    )
    answers: AnswersForm = Field(description="the table [serving.answers]", examples=["[serving.answers]"])


class OutputsForm(Form):
    """What may leave, and to whom."""

    recipients: Parties = Field(
        description="the parties an output may be encrypted to; [] allows none", examples=[f'recipients = ["{_PARTY}"]']
    )
    minimum_group: MinimumGroupForm = Field(
        default=MinimumGroupForm(),
        description="the table [outputs.minimum_group]",
        examples=["[outputs.minimum_group]"],
    )
    approvals: ApprovalsForm | None = Field(
        default=None,
        description="the table [outputs.approvals]; without it, outputs need no approval",
        examples=["[outputs.approvals]"],
    )
    max_rows: int | None = Field(
        default=None,
        ge=1,
        le=_MOST,
        description="the most rows that an output may have; without it, any number",
        examples=["max_rows = 1000"],
    )
    files: FilesForm | None = Field(
        default=None,
        description="the table [outputs.files]; without it, only tables may leave",
        examples=["[outputs.files]"],
    )


class PolicyForm(Form):
    """A data-use policy: what one owner permits with one dataset."""

    model_config = ConfigDict(title="Strongroom data-use policy, version 1")

    dataset: Name = Field(description="the dataset's name", examples=['dataset = "flights"'])
    version: int = Field(
        ge=1, le=_MOST, description="the policy's version; a change needs a higher one", examples=["version = 1"]
    )
    owner: Party = Field(
        description="the owner's party id, as `strongroom identity` prints it", examples=[f'owner = "{_PARTY}"']
    )
    purposes: Annotated[list[Purpose], Distinct] = Field(
        description="what the data may be used for; [] allows nothing", examples=['purposes = ["fraud research"]']
    )
    analysts: Parties = Field(
        description="the parties whose jobs may run; [] allows none", examples=[f'analysts = ["{_PARTY}"]']
    )
    not_before: When | None = Field(
        default=None,
        description="the time from which the policy permits anything",
        examples=["not_before = 2026-01-01T00:00:00Z"],
    )
    expires: When = Field(
        description="the time from which the policy permits nothing", examples=["expires = 2027-01-31T00:00:00Z"]
    )
    max_uses: int | None = Field(
        default=None,
        ge=1,
        le=_MOST,
        description="how many jobs may open the dataset; without it, any number",
        examples=["max_uses = 10"],
    )
    lease: int = Field(
        default=DEFAULT_LEASE_SECONDS,
        ge=1,
        le=86_400,
        description="seconds for which a released key may be held before the broker is asked again",
        examples=["lease = 300"],
    )
    programs: ProgramsForm = Field(
        default=ProgramsForm(), description="the table [programs]; without it, nothing may run", examples=["[programs]"]
    )
    columns: ColumnsForm = Field(description="the table [columns]", examples=["[columns]"])
    tee: TeeForm = Field(description="the table [tee]", examples=["[tee]"])
    outputs: OutputsForm = Field(description="the table [outputs]", examples=["[outputs]"])
    serving: ServingForm | None = Field(
        default=None,
        description="the table [serving]; without it, no endpoint answers from this dataset",
        examples=["[serving]"],
    )

    @field_validator("expires")
    @classmethod
    def _window_is_open(cls, expires: When, info: ValidationInfo) -> When:
        not_before = info.data.get("not_before")
        if not_before is not None and expires <= not_before:
            raise PydanticCustomError("window", "a time after not_before")
        return expires

    @field_validator("outputs")
    @classmethod
    def _unit_can_be_counted(cls, outputs: OutputsForm, info: ValidationInfo) -> OutputsForm:
        columns, unit = info.data.get("columns"), outputs.minimum_group.unit
        if columns is None or unit is None:
            return outputs
        withheld = {column.casefold() for column in columns.withhold}
        if unit.casefold() in withheld or (columns.allow != ["*"] and unit not in columns.allow):
            raise PydanticCustomError("unit", "minimum_group.unit to be a column that [columns] allows: it is counted")
        return outputs
