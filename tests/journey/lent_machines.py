"""Agents as an operator starts them, `strongroom worker join`, on loopback or in network namespaces of a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

from small_world import SmallWorld, frozen_package

from strongroom.jobs.launch.standalone import HostPool, HostSettings
from strongroom.jobs.launch.standalone.settings import HostForm

# The agent measures and starts the package it is itself; a test's world knows a frozen copy of it.
_COMMAND = [sys.executable, "-m", "strongroom", "worker", "join", "--json"]


@dataclass
class Agent:
    process: subprocess.Popen
    address: str
    certificate: str
    said: list[str] = field(default_factory=list)

    @property
    def form(self) -> HostForm:
        return HostForm(address=self.address, certificate=self.certificate)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


def join(world: SmallWorld, name: str, *, listen: str = "127.0.0.1:0", most: int = 8, within=(), admits=None) -> Agent:
    """Start an agent; ``within`` is a command prefix such as ``ip netns exec NAME``."""
    jobs = world.directory / "jobs"
    jobs.mkdir(exist_ok=True)
    party = str(admits or world.analyst.key.party)
    options = ["--listen", listen, "--platform", str(world.platform.directory), "--jobs", str(jobs)]
    options += ["--admit", party, "--most", str(most), "--directory", str(world.directory / f"agent-{name}")]
    environment = {**os.environ, "PYTHONPATH": str(frozen_package().parent), "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        [*within, *_COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    lines = []
    while "}" not in "".join(lines):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        lines.append(line)
    told = json.loads("".join(lines))
    agent = Agent(process=process, address=told["address"], certificate=told["certificate"])
    threading.Thread(target=lambda: agent.said.extend(process.stderr), daemon=True).start()
    return agent


def pool(world: SmallWorld, *agents: Agent, key=None) -> HostPool:
    directory = world.job_directory()
    directory.mkdir()
    return HostPool(
        HostSettings(hosts=[agent.form for agent in agents]), key=key or world.analyst.key, directory=directory
    )


def run_on(world: SmallWorld, agents, job=None, *, engine="embedded", on_event=lambda _name, _facts: None, retries=0):
    placed = pool(world, *agents)
    return world.analyst.run(
        job or world.write_job(),
        broker=world.analyst_door(),
        host=placed,
        engine=engine,
        directory=placed.directory,
        on_event=on_event,
        retries=retries,
    )


@contextmanager
def joined(*agents: Agent):
    try:
        yield agents
    finally:
        for agent in agents:
            agent.close()
