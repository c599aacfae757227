"""A storage password is put into a job's location, where every party that sees the job could read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from strongroom.jobs import load_job
from strongroom.policy import DocumentError
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="bank")


def _job(folder: Path, location: str) -> Path:
    (folder / "q.sql").write_text("SELECT 1")
    path = folder / "job.toml"
    path.write_text(
        f"""
        name = "j"
        kind = "sql"
        purpose = "x"
        program = "q.sql"
        [inputs.accounts]
        owner = "{OWNER.party}"
        columns = ["*"]
        location = '{location}'
        [outputs.result]
        recipients = ["{OWNER.party}"]
        """
    )
    return path


@pytest.mark.parametrize(
    "location",
    [
        "s3://key:secret@bucket/accounts",
        "s3://key@bucket/accounts",
        "abfss://box:secret@account.dfs.core.windows.net/accounts",
        "gs://bucket/accounts?token=secret",
        "hdfs://host/accounts#secret",
        "https://user:secret@host/accounts",
        "jdbc:postgresql://host/db?password=secret",
        "s3://[bad/accounts",
    ],
)
def test_location_with_a_credential_is_refused(location: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"inputs\.accounts\.location"):
        load_job(_job(tmp_path, location))


@pytest.mark.parametrize(
    "location",
    ["s3://bucket/a b", "abfss://box@account.dfs.core.windows.net/x", "file:///data/x", "hdfs://host:9000/x"],
)
def test_location_without_one_is_kept(location: str, tmp_path: Path) -> None:
    assert load_job(_job(tmp_path, location)).inputs["accounts"].location == location
