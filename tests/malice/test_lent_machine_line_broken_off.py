"""A launcher, or the machine it talks to, breaks the rules of the line to have places lost or a job wait for ever."""

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

from strongroom.jobs.launch.placement import PlacementError
from strongroom.jobs.launch.standalone.agent import HostAgent
from strongroom.jobs.launch.standalone.line import AgentCertificate, connect
from strongroom.jobs.launch.standalone.placement import Machine
from strongroom.statements import SigningKey

JOB = "sha384:" + "0" * 96
ANALYST = SigningKey.generate(name="analyst")


class SlowHost:
    """Starts a process that would run for long, and takes until ``go`` to do it."""

    def __init__(self):
        self.asked, self.go = threading.Event(), threading.Event()

    def start(self, _role, _argv, *, job_digest="", stdout=None, stderr=None):
        self.asked.set()
        assert self.go.wait(20)
        return subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=-1, stdout=stdout, stderr=stderr)


def lend(host, directory):
    return HostAgent(
        host,
        certificate=AgentCertificate.keep(directory / "agent"),
        admits=[ANALYST.party],
        jobs=directory,
        logs=directory / "logs",
        most=1,
    )


def test_strangers_that_say_nothing_keep_no_launcher_out(tmp_path):
    agent = lend(SlowHost(), tmp_path)
    address = agent.listen(("127.0.0.1", 0))
    with contextlib.ExitStack() as silent:
        silent.callback(agent.close)
        for _ in range(150):
            silent.enter_context(socket.create_connection(address, timeout=10))
        begun = time.monotonic()
        line, _ = connect(address, certificate=agent.certificate.digest, key=ANALYST, job_digest=JOB)
        line.close()
    assert time.monotonic() - begun < 9  # before any of the strangers' time was over


def test_launcher_that_hangs_up_while_its_process_starts_takes_no_place_with_it(tmp_path):
    host = SlowHost()
    agent = lend(host, tmp_path)
    address = agent.listen(("127.0.0.1", 0))
    try:
        line, most = connect(address, certificate=agent.certificate.digest, key=ANALYST, job_digest=JOB)
        assert most == 1
        start = {"role": "driver", "name": "driver", "directory": str(tmp_path), "engine": "embedded"}
        line.send({"type": "start", "id": 1, **start})
        assert host.asked.wait(20)
        line._tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # so that it is reset
        line.close()
        time.sleep(0.2)  # for the agent's machine to hear of it
        host.go.set()
        until = time.monotonic() + 20
        while not agent.take_place():
            assert time.monotonic() < until, "the place is lost"
            time.sleep(0.05)
        agent.give_place()
    finally:
        agent.close()


@pytest.mark.parametrize("answer", [{"pid": "many"}, {}, {"pid": None}])
def test_machine_that_answers_nonsense_is_lost_and_said_to_be(tmp_path, answer):
    certificate = AgentCertificate.keep(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))

    def play() -> None:
        line, _ = certificate.accept(listener.accept()[0], admits=[ANALYST.party])
        line.send({"type": "welcome", "most": 8})
        while (said := line.receive(seconds=20))["type"] != "start":
            pass
        line.send({"type": "started", "id": said["id"], **answer})

    threading.Thread(target=play, daemon=True).start()
    lost = threading.Event()
    with listener:
        line, most = connect(listener.getsockname()[:2], certificate=certificate.digest, key=ANALYST, job_digest=JOB)
        machine = Machine("there", line=line, most=most, on_lost=lambda _machine, _why: lost.set())
        with pytest.raises(PlacementError, match="there refused: there talks nonsense"):
            machine.start({"role": "driver", "name": "driver"})
        assert lost.wait(5)
        assert machine.room is None
        machine.close()
