"""Somebody submits a job in the name of an analyst whom the owners trust."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from strongroom.jobs import JobError, JobInput, SignedJob, job_template, load_job, sign_job, verify_job
from strongroom.statements import SigningKey, StatementError, sign

OWNER, ALICE, MALLORY = (SigningKey.generate(name=name) for name in ("bank", "alice", "mallory"))


@pytest.fixture
def job(tmp_path: Path) -> SignedJob:
    (tmp_path / "query.sql").write_text("SELECT count(*) FROM accounts")
    (tmp_path / "job.toml").write_text(
        job_template(
            name="count",
            kind="sql",
            purpose="research",
            program="query.sql",
            inputs={"accounts": JobInput(owner=OWNER.party, columns=("id",), location="/data/accounts")},
            recipients=[ALICE.party],
        )
    )
    return sign_job(load_job(tmp_path / "job.toml"), ALICE)


def test_job_that_names_alice_but_is_signed_by_mallory_is_refused(job: SignedJob) -> None:
    forged = sign(json.loads(job.statement.payload), kind="job", version=1, key=MALLORY)
    with pytest.raises(JobError, match="names the analyst alice:"):
        verify_job(forged, job.program)


def test_alices_name_with_mallorys_key_is_mallory(job: SignedJob, tmp_path: Path) -> None:
    alias = SigningKey.from_seed(MALLORY.reveal_seed(), name="alice")
    spec = sign_job(load_job(tmp_path / "job.toml"), alias).verify()
    assert spec.analyst.name == "alice"
    assert spec.analyst != ALICE.party


def test_recipient_changed_after_signing_breaks_the_signature(job: SignedJob) -> None:
    payload = job.statement.payload.replace(str(ALICE.party).encode(), str(MALLORY.party).encode())
    assert payload != job.statement.payload
    with pytest.raises(StatementError, match="signature"):
        verify_job(replace(job.statement, payload=payload), job.program)
