"""A workload's process ends in order whatever ends it, and what it says on the way quotes no data."""

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strongroom.envelope.keys import DatasetKeys
from strongroom.errors import StrongroomError
from strongroom.workload.ending import describe_defect

BUSY = """
import duckdb
from strongroom.workload.ending import end_on_signal
from strongroom.workload.scratch import make_scratch
made = make_scratch()
end_on_signal(lambda: print("closed", flush=True))
print(made, flush=True)
duckdb.sql("SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b").fetchall()
"""
STUCK = """
import threading
from strongroom.workload.ending import end_on_signal
from strongroom.workload.scratch import make_scratch
made = make_scratch()
end_on_signal(threading.Event().wait)
print(made, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("program", [BUSY, STUCK], ids=["in a query", "closing hangs"])
def test_signal_ends_the_process_in_time_and_leaves_no_scratch(program, number):
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        scratch = Path(process.stdout.readline().strip())
        assert scratch.exists()
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
        assert time.monotonic() - started < 10
        assert not scratch.exists()


def _raise(error):
    try:
        raise error
    except type(error) as raised:
        return describe_defect(raised)


def test_defect_tells_its_kind_and_our_line_and_no_data():
    try:
        DatasetKeys.from_dek(None, dataset="d", version=1, columns=["Alice earns 100"])
    except Exception as error:  # noqa: BLE001  whatever it is
        told = describe_defect(error)
    assert isinstance(told, StrongroomError)
    assert "Alice" not in told.message + told.hint
    assert "envelope/" in told.message
    assert type(told).__name__ == "DefectError"


def test_full_storage_is_told_as_such_and_without_the_path():
    told = _raise(OSError(errno.ENOSPC, "no", "/jobs/Alice.parquet"))
    assert "no space left on device" in told.message
    assert "Alice" not in told.message
    assert "free some space" in told.hint


def test_exhausted_memory_is_told_as_such():
    assert "memory" in _raise(MemoryError("Alice")).message
