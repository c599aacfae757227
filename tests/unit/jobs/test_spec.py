"""A job is read whole or not at all, signed with its program, and verified to what was signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from strongroom.errors import PolicyError
from strongroom.jobs import JobError, JobInput, SignedJob, job_digest, job_template, load_job, sign_job, verify_job
from strongroom.jobs.spec import job_document, verify_spec
from strongroom.policy import DocumentError
from strongroom.statements import SigningKey, StatementError, sign

BANK, SHOP, ALICE = (SigningKey.from_seed(name[:1].encode() * 32, name=name) for name in ("bank", "shop", "alice"))
QUERY = "SELECT count(*) FROM accounts"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | None = None, *, program: bytes = QUERY.encode()) -> Path:
        (tmp_path / "query.sql").write_bytes(program)
        (tmp_path / "job.toml").write_text(text or _text())
        return tmp_path / "job.toml"

    return write


def _text(**changes: Any) -> str:
    asked: dict[str, Any] = {
        "name": "count",
        "kind": "sql",
        "purpose": "fraud research",
        "program": "query.sql",
        "inputs": {
            "accounts": JobInput(owner=BANK.party, columns=("id", "city"), location="data/accounts"),
            "sales": JobInput(owner=SHOP.party, columns=("*",), location="s3://shop/sales"),
        },
        "recipients": [ALICE.party],
    }
    return job_template(**(asked | changes))


def test_job_is_verified_to_what_its_file_says(write: Callable[..., Path], tmp_path: Path) -> None:
    signed = sign_job(load_job(write()), ALICE)
    spec = SignedJob.decode(signed.encode()).verify()
    assert (spec.name, spec.kind, spec.purpose) == ("count", "sql", "fraud research")
    assert spec.inputs["accounts"] == JobInput(
        owner=BANK.party, columns=("id", "city"), location=str(tmp_path / "data/accounts")
    )
    assert spec.inputs["sales"].location == "s3://shop/sales"
    assert spec.recipients == (ALICE.party,)
    assert spec.analyst == ALICE.party
    assert (spec.workers, spec.worker_memory, spec.worker_cores, spec.tee) == (1, "2g", 1, "any")
    assert verify_spec(signed.statement) == spec


def test_recipients_of_all_outputs_are_named_once(write: Callable[..., Path]) -> None:
    text = (
        _text(kind="spark", program="query.sql")
        + f'\n[outputs.model]\nrecipients = ["{ALICE.party}", "{BANK.party}"]\n'
    )
    spec = sign_job(load_job(write(text)), ALICE).verify()
    assert spec.recipients == (ALICE.party, BANK.party)


def test_same_draft_is_the_same_job_and_a_new_draft_is_another(write: Callable[..., Path]) -> None:
    path = write()
    draft = load_job(path)
    assert sign_job(draft, ALICE).digest == sign_job(draft, ALICE).digest
    assert sign_job(load_job(path), ALICE).digest != sign_job(draft, ALICE).digest


def test_job_digest_changes_with_program_analyst_and_every_key(write: Callable[..., Path]) -> None:
    draft = load_job(write())
    drafts = [
        draft,
        replace(draft, program=b"SELECT 2"),
        replace(draft, purpose="teaching"),
        replace(draft, workers=2, most_workers=2),
        replace(draft, most_workers=2),
        replace(draft, tee="tdx"),
        replace(draft, nonce="0" * 32),
        replace(draft, created=datetime(2027, 1, 1, tzinfo=UTC)),
        replace(draft, inputs={"accounts": draft.inputs["accounts"]}),
    ]
    digests = {sign_job(one, ALICE).digest for one in drafts} | {sign_job(draft, BANK).digest}
    assert len(digests) == len(drafts) + 1
    assert all(digest.startswith("sha384:") and len(digest) == 103 for digest in digests)


def test_every_problem_is_reported_at_once(write: Callable[..., Path]) -> None:
    text = f"""
        name = "Count"
        kind = "fortran"
        program = ""
        [inputs.accounts]
        owner = "bank"
        columns = []
        location = "ftp://host/x"
        [inputs.BAD]
        owner = "{BANK.party}"
        columns = ["*", "id"]
        location = "x"
        column = []
        [outputs.result]
        recipients = []
        [cluster]
        workers = 0
        worker_memory = "4gb"
        tee = "simulated"
    """
    with pytest.raises(DocumentError) as caught:
        load_job(write(text))
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {
        "name",
        "kind",
        "purpose",
        "program",
        "inputs.accounts.owner",
        "inputs.accounts.columns",
        "inputs.accounts.location",
        "inputs.BAD.[key]",
        "inputs.BAD.columns",
        "inputs.BAD.column",
        "outputs.result.recipients",
        "cluster.workers",
        "cluster.worker_memory",
        "cluster.tee",
    }


@pytest.mark.parametrize("table", ["inputs", "outputs"])
def test_job_without_inputs_or_outputs_is_refused(table: str, write: Callable[..., Path]) -> None:
    lines = _text().splitlines()
    kept, skipping = [], False
    for line in lines:
        skipping = line.startswith(f"[{table}.") if line.startswith("[") else skipping
        kept += [] if skipping else [line]
    with pytest.raises(DocumentError, match=table):
        load_job(write("\n".join(kept)))


def test_query_with_two_outputs_is_refused(write: Callable[..., Path]) -> None:
    text = _text() + f'\n[outputs.other]\nrecipients = ["{ALICE.party}"]\n'
    with pytest.raises(DocumentError, match="exactly one output"):
        load_job(write(text))


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"", "program is empty"),
        (b" \n", "program is empty"),
        (b"SELECT '\xff'", "not UTF-8"),
        (b"-" * ((1 << 20) + 1), "more than 1048576 bytes"),
    ],
)
def test_program_that_is_not_a_text_of_reasonable_size_is_refused(
    program: bytes, said: str, write: Callable[..., Path]
) -> None:
    with pytest.raises(JobError, match=said):
        load_job(write(program=program))


def test_missing_files_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nowhere\.toml is not a file"):
        load_job(tmp_path / "nowhere.toml")
    with pytest.raises(JobError, match=r"gone\.sql is not a file"):
        load_job(write(_text(program="gone.sql")))
    with pytest.raises(JobError, match="is not a file"):
        load_job(write(_text(program="/dev/zero")))
    with pytest.raises(JobError, match="is not a file"):
        load_job(tmp_path)


def test_job_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(JobError, match="not UTF-8"):
        load_job(tmp_path / "job.toml")


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 2},
        {"nonce": "0" * 31},
        {"created": "2027-01-01"},
        {"program_digest": "sha256:0"},
        {"analyst": "alice"},
        {"inputs": {}},
        {"cluster": {}},
        {"program": "query.sql"},
    ],
)
def test_signed_job_in_another_form_is_refused(change: dict[str, Any], write: Callable[..., Path]) -> None:
    signed = sign_job(load_job(write()), ALICE)
    document = job_document(signed.verify())
    with pytest.raises(PolicyError):
        verify_spec(sign(document | change, kind="job", version=1, key=ALICE))
    with pytest.raises(StatementError):
        verify_spec(sign(document, kind="policy", version=1, key=ALICE))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"null", b'{"statement": "x", "program": "?"}', b"[" * 99_999, b"\xff"]
)
def test_transport_of_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(PolicyError):
        SignedJob.decode(data)


def test_transport_with_an_extra_part_is_refused(write: Callable[..., Path]) -> None:
    signed = sign_job(load_job(write()), ALICE)
    document = json.loads(signed.encode()) | {"extra": 1}
    with pytest.raises(JobError, match="nothing else"):
        SignedJob.decode(json.dumps(document).encode())
    assert job_digest(signed.statement) == signed.digest
    assert verify_job(signed.statement, signed.program).program_digest.startswith("sha256:")


def test_template_that_makes_no_job_is_refused() -> None:
    with pytest.raises(DocumentError, match="name"):
        _text(name="Not A Name")
