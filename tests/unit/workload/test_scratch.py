"""Scratch is private, in memory, and gone with its process, if need be by the hand of the next."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from strongroom.errors import EnvelopeError
from strongroom.workload.scratch import discard_scratch, filesystem_kind, make_scratch, remove_abandoned

MAKER = """
import time
from strongroom.workload.scratch import make_scratch
made = make_scratch()
(made / "spill").write_bytes(b"x" * 100)
print(made, flush=True)
time.sleep(60)
"""


@pytest.fixture
def elsewhere():
    """A process with a scratch directory, and that directory."""
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_scratch_is_private_and_in_memory_and_can_be_discarded_twice():
    made = make_scratch()
    assert made.stat().st_mode & 0o777 == 0o700
    assert filesystem_kind(made) == "tmpfs"
    discard_scratch(made)
    discard_scratch(made)
    assert not made.exists()


def test_scratch_on_a_disk_is_refused(tmp_path):
    if filesystem_kind(tmp_path) == "tmpfs":
        pytest.skip("temporary directories are in memory here")
    with pytest.raises(EnvelopeError, match="must be on a memory file system"):
        make_scratch(tmp_path)


def test_scratch_of_a_living_process_is_left_alone_and_that_of_a_killed_one_is_removed(elsewhere):
    process, theirs = elsewhere
    remove_abandoned()
    assert (theirs / "spill").exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert theirs.exists()
    mine = make_scratch()
    assert not theirs.exists()
    assert mine.exists()
    discard_scratch(mine)
