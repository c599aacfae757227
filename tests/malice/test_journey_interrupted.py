"""A person presses Ctrl-C, or the machine says goodbye (SIGTERM), at any moment of the journey."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from small_world import frozen_package, held_by_the_living, scratch_directories

MOMENTS = ("Owners encrypt", "The analyst signs", "The client attests", "The driver gets keys", "The job runs")


def processes_of(place) -> list[int]:
    everyone = psutil.process_iter(["cmdline"])
    return [one.pid for one in everyone if any(str(place) in part for part in one.info["cmdline"] or ())]


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_no_process_no_scratch_and_no_temporary_directory(tmp_path, moment):
    temporary, before = tmp_path / "tmp", scratch_directories()
    temporary.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(frozen_package().parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(temporary),
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-m", "strongroom", "demo", "--engine", "embedded", "--no-refusals"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as demo:
        said = ""
        for line in demo.stderr:
            said += line
            if moment in line:
                break
        time.sleep(0.2)
        demo.send_signal(signal.SIGINT)
        said += demo.stderr.read()
        code = demo.wait(timeout=60)
    assert code == 130, said
    assert "Traceback" not in said
    assert "interrupted" in said
    assert processes_of(temporary) == []
    assert held_by_the_living(scratch_directories() - before) == set()
    assert list(temporary.iterdir()) == []
