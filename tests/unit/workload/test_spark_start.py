"""Starting Java: what is wrong is said before anything runs, and nothing of the caller's environment goes along."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strongroom.errors import UsageError
from strongroom.workload.scratch import make_scratch
from strongroom.workload.spark.cluster import ExecutorProcess
from strongroom.workload.spark.jvm import class_path, environment, verify_scratch


@pytest.fixture
def scratch():
    directory = make_scratch()
    yield directory
    shutil.rmtree(directory)


def executor(scratch: Path, **changed):
    fields = {
        "secret": os.urandom(32),
        "driver_url": "spark://CoarseGrainedScheduler@127.0.0.1:1",
        "executor_id": 1,
        "host": "127.0.0.1",
        "cores": 1,
        "memory": "512m",
        "app_id": "app-1",
        "agent_socket": scratch / "keys.sock",
        "work_dir": scratch,
        "inputs": [],
        "outbox": scratch,
    }
    return ExecutorProcess(**(fields | changed))


def test_scratch_on_a_disk_is_refused(tmp_path):
    tmp_path.chmod(0o700)
    if tmp_path.stat().st_dev == Path("/dev/shm").stat().st_dev:
        pytest.skip("the temporary directory is in memory here")
    with pytest.raises(UsageError, match="must be in memory"):
        verify_scratch(tmp_path)


def test_scratch_that_others_may_read_is_refused(scratch):
    scratch.chmod(0o755)
    with pytest.raises(UsageError, match="private"):
        verify_scratch(scratch)


@pytest.mark.parametrize(
    "changed",
    [
        {"secret": b"short"},
        {"memory": "512m -XX:+UnlockDiagnosticVMOptions"},
        {"memory": "lots"},
        {"cores": 0},
        {"executor_id": -1},
    ],
)
def test_nonsense_is_refused_before_java_starts(scratch, changed):
    with pytest.raises(UsageError):
        executor(scratch, **changed)


def test_command_line_holds_no_secret(scratch):
    secret = os.urandom(32)
    assert secret.hex() not in " ".join(executor(scratch, secret=secret).command)


def test_java_inherits_nothing_of_the_environment(scratch, monkeypatch):
    for name in ("JAVA_TOOL_OPTIONS", "_SPARK_AUTH_SECRET", "LD_PRELOAD", "SPARK_CONF_DIR", "PYTHONSTARTUP"):
        monkeypatch.setenv(name, "evil")
    assert "evil" not in environment(scratch, host="127.0.0.1").values()


def test_class_path_starts_with_our_jar_and_leaves_out_what_no_job_needs():
    jars = [Path(entry).name for entry in class_path().split(os.pathsep)]
    assert jars[0] == "strongroom-spark.jar"
    assert not [name for name in jars if name.startswith(("kubernetes", "hive-exec", "spark-hive", "libthrift"))]
    assert [name for name in jars if name.startswith("spark-core_")]


@pytest.mark.spark
def test_java_ends_with_its_parent_and_leaves_no_file(scratch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        script = f"""
import os, time
from pathlib import Path
from strongroom.workload.spark.cluster import ExecutorProcess
scratch = Path({str(scratch)!r})
executor = ExecutorProcess(
    secret=os.urandom(32), driver_url="spark://X@127.0.0.1:{silent.getsockname()[1]}", executor_id=1,
    host="127.0.0.1", cores=1, memory="256m", app_id="a", agent_socket=scratch / "s", work_dir=scratch, inputs=[],
    outbox=scratch)
executor.start()
print(executor.pid, flush=True)
time.sleep(100)
"""
        parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        java = Path("/proc") / parent.stdout.readline().decode().strip()
        silent.settimeout(60)
        silent.accept()  # Java is up and waits for an answer
        assert java.exists()
        parent.kill()
        parent.wait()
        parent.stdout.close()
        end = time.monotonic() + 15
        while time.monotonic() < end and (java.exists() or any(scratch.iterdir())):
            time.sleep(0.1)
    assert not java.exists()
    assert list(scratch.iterdir()) == []
