"""The program is exchanged after the job was signed, on the wire or on the host's disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from strongroom.jobs import JobError, JobInput, SignedJob, job_template, load_job, sign_job, verify_job
from strongroom.statements import SigningKey

OWNER, ALICE = SigningKey.generate(name="bank"), SigningKey.generate(name="alice")


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


@pytest.mark.parametrize("program", [b"SELECT * FROM accounts", b"SELECT count(*) FROM accounts ", b" "])
def test_other_bytes_than_those_signed_do_not_run(job: SignedJob, program: bytes) -> None:
    with pytest.raises(JobError, match=r"program has digest|program is empty"):
        verify_job(job.statement, program)


def test_swapped_program_in_transport_does_not_run(job: SignedJob) -> None:
    arrived = SignedJob.decode(job.encode().replace(b"U0VMRUNU", b"REVMRVRF"))
    assert arrived.program.startswith(b"DELETE")
    with pytest.raises(JobError, match="program has digest"):
        arrived.verify()
