"""A container's first process with a simulated TEE: it starts one measured workload and ends as that one ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from strongroom.attestation.simulated.__main__ import lay_seed, main
from strongroom.errors import UsageError

JOB = f"sha384:{'ab' * 48}"


def start(*words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "strongroom.attestation.simulated", "run", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ})


@pytest.fixture
def seed(tmp_path):
    file = tmp_path / "seed"
    file.write_bytes(os.urandom(32))
    file.chmod(0o444)  # as a config map shows it
    return file


def test_workload_says_its_word_and_ends_when_the_container_is_stopped(tmp_path, seed):
    driver = ["--directory", tmp_path / "job", "--engine", "embedded", "--job-digest", JOB]
    process = start("--role", "driver", "--job-digest", JOB, "--seed", seed, "--", *driver)
    try:
        said = json.loads(process.stdout.readline())
        assert said["event"] == "listening"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.stdout.close()


def test_exit_code_is_the_workloads_own(seed):
    process = start("--role", "egress", "--seed", seed, "--", "--no-such-argument")
    with process.stdout:
        assert process.wait(30) == 2


def test_missing_seed_is_said_on_the_line_to_the_host(tmp_path, capsys):
    assert main(["run", "--role", "driver", "--seed", str(tmp_path / "none")]) == UsageError.exit_code
    said = json.loads(capsys.readouterr().out)
    assert said["event"] == "failed"
    assert "seed" in said["message"]


def test_seed_is_private_where_the_platform_keeps_it(tmp_path, seed):
    lay_seed(seed, tmp_path / "platform")
    kept = tmp_path / "platform" / "seed"
    assert kept.read_bytes() == seed.read_bytes()
    assert kept.stat().st_mode & 0o077 == 0
    lay_seed(seed, tmp_path / "platform")  # a container that is started again
    seed.chmod(0o644)
    seed.write_bytes(os.urandom(32))
    with pytest.raises(UsageError, match="another simulated platform"):
        lay_seed(seed, tmp_path / "platform")
