"""The example of two ends runs as it stands, and says what it did."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "attested-channel" / "two_ends.py"


def test_the_example_attests_talks_renews_and_issues() -> None:
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "the driver sees a worker, tier contraindicated",
        "the worker heard {'task': 1}",
        "the worker's evidence was renewed",
    ]
    assert "issued to a worker until" in done.stdout
    assert done.stderr == ""
