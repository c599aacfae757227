"""A person presses Ctrl-C, or the machine says goodbye (SIGTERM), at any moment of the journey."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_world import abandoned, frozen_package, plaintext_in, scratch_directories, wait_until

from strongroom.workload.scratch import remove_abandoned

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
    assert abandoned(before) == set()
    assert list(temporary.iterdir()) == []


SUBMITTING = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from small_world import LONG_QUERY, small_world
with small_world(Path({place!r}), lease=60) as world:
    world.run(world.write_job(program=LONG_QUERY), on_event=lambda name, facts: print(name, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_end_of_the_submitting_process_is_the_end_of_all_it_started(tmp_path, number):
    place, before = tmp_path / "place", scratch_directories()
    program = SUBMITTING.format(folder=str(Path(__file__).parent.parent / "journey"), place=str(place))
    environment = {**os.environ, "PYTHONPATH": str(frozen_package().parent), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        for line in process.stdout:
            if line.strip() == "program-started":
                break
        assert processes_of(place)
        process.send_signal(number)
        process.wait(timeout=60)
    wait_until(lambda: not processes_of(place), seconds=10, why="a process was left")
    left = abandoned(before)
    assert plaintext_in(place, *left) == []
    if number == signal.SIGINT:
        assert left == set()
    remove_abandoned()
    assert abandoned(before) == set()
