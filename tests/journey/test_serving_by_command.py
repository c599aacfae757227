"""A model is served and asked by commands alone, and both end in order when they are told to."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from serving_world import SIMPLE, ask, simple_world
from small_world import HOME_PASSWORD, frozen_package, write_home

from strongroom.digests import bytes_digest


@pytest.fixture
def world(tmp_path):
    with simple_world(tmp_path) as made:
        yield made


class Command:
    """A command that goes on until it is told to end."""

    def __init__(self, place, home, *words):
        options = ["--home", str(home), "--password-file", str(place / "password"), "--json"]
        environment = {**os.environ, "PYTHONPATH": str(frozen_package().parent), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-m", "strongroom", *map(str, words), *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=place
        )
        lines = []
        while lines[-1:] != ["}\n"]:  # the end of the one object that it says
            lines.append(self.process.stdout.readline())
            assert lines[-1], self.process.stderr.read()
        self.said = json.loads("".join(lines))

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def test_model_is_served_and_asked_by_commands(world, tmp_path):
    (tmp_path / "password").write_text(HOME_PASSWORD + "\n")
    for name, party in (("analyst", world.analyst), ("partner", world.partner)):
        write_home(world, party, tmp_path / name)
    job = world.serve_job("simple", program=SIMPLE)
    published = tmp_path / "endpoint.json"
    words = ["serve", job, "--platform", world.platform.directory, "--publish", published]
    served = Command(tmp_path, tmp_path / "analyst", *words)
    program = bytes_digest(SIMPLE.encode())
    proxy = Command(tmp_path, tmp_path / "partner", "proxy", published, "--listen", "127.0.0.1:0", "--program", program)
    assert (proxy.said["model"], proxy.said["program"]) == (served.said["model"], program)
    with httpx.Client(base_url=proxy.said["url"], timeout=60) as client:
        assert ask(client, [[1.0, 0.0]]).json()["outputs"][0]["data"] == [0.123]
    assert proxy.end()[0] == 0
    code, errors = served.end()
    assert code == 0, errors
    accounts = [one.facts for one in world.entries("answers")]
    assert sum(one["closed"]["count"] for one in accounts if "closed" in one) == 1
    assert "opened" not in accounts[-1]
