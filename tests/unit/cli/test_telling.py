"""What an owner and an analyst read about outputs: all they need to act, in one piece, to be copied."""

from __future__ import annotations

from strongroom.cli.approve import _tell
from strongroom.cli.submit import tell_output

JOB = "7c1e" * 8
OUTPUT = {"name": "delays", "state": "released", "id": f"{JOB}/delays", "directory": "/jobs/delays-1a2b"}


def test_owner_sees_the_whole_id_and_digest_of_what_waits():
    digest = "sha256:" + "ab" * 32
    told = list(
        _tell(
            {
                "output": f"{JOB}/delays",
                "analyst": "lab:" + "0" * 32,
                "purpose": "study",
                "program": "sha256:" + "cd" * 32,
                "recipients": "lab:" + "0" * 32,
                "digest": digest,
                "details": {"rows": 3, "columns": ["city", "n"], "card": ""},
            }
        )
    )
    assert told[0] == f"{JOB}/delays waits for your approval"
    assert f"  digest      {digest}" in told
    assert "  columns     city, n" in told
    assert not any("card" in line for line in told)
    assert told[-1] == f"  strongroom approve {JOB}/delays"


def test_released_output_can_be_fetched():
    assert tell_output(JOB, OUTPUT) == f"output delays: strongroom fetch {JOB} delays"


def test_pending_output_waits_for_the_owners_first():
    told = tell_output(JOB, OUTPUT | {"state": "pending"})
    assert (
        told
        == f"output delays: waits for the owners' approval (strongroom approve), then strongroom fetch {JOB} delays"
    )


def test_nobody_is_told_to_fetch_what_stays_inside():
    told = tell_output(JOB, OUTPUT, kept=True)
    assert "fetch" not in told
    assert told.endswith(f"strongroom register /jobs/delays-1a2b --output {JOB}/delays")
