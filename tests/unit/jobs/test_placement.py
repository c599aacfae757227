"""The launcher starts what the driver wants, replaces what dies, and says so when it cannot go on."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from strongroom.errors import TransportError
from strongroom.jobs.launch.launcher import Launcher
from strongroom.jobs.launch.placement import PlacementError

LISTENING = """
import json, time
def say(event, **facts): print(json.dumps({"event": event, **facts}), flush=True)
say("listening", host="127.0.0.1", port=1)
"""


class Host:
    """Starts small Python programs instead of measured roles."""

    def __init__(self, **programs):
        self.programs, self.started = programs, []

    def start(self, role, argv, *, job_digest="", stdout=None, stderr=None):
        program = textwrap.dedent(self.programs[role])
        process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=stdout, stderr=stderr)
        self.started.append((role, process))
        return process

    def alive(self):
        return [role for role, process in self.started if process.poll() is None]


@pytest.fixture
def place(tmp_path):
    launchers = []

    def make(host, **more):
        launcher = Launcher(host, directory=tmp_path / "job", job_digest="d", engine="spark", **more)
        launchers.append(launcher)
        return launcher

    yield make
    for launcher in launchers:
        launcher.stop()


def wait(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_driver_that_says_impossible_numbers_is_heard_on(place):
    host = Host(
        driver="""
        print('{"event": "listening", "host": "127.0.0.1", "port": Infinity}')
        print('{"event": "wanted", "role": "worker", "count": Infinity}')
        print('{"event": "listening", "host": "127.0.0.1", "port": 7443}', flush=True)
        import time; time.sleep(60)
        """
    )
    assert place(host).start() == ("127.0.0.1", 7443)


def test_driver_that_dies_before_it_listens_is_an_error_with_its_last_words(place):
    host = Host(driver='import sys; print(\'{"event":"failed","message":"no memory here"}\', flush=True); sys.exit(1)')
    with pytest.raises(PlacementError, match="ended with code 1"):
        place(host).start()


def test_driver_that_says_nothing_is_given_up_and_ended(place):
    host = Host(driver="import time; time.sleep(60)")
    with pytest.raises(TransportError, match="the driver said nothing"):
        place(host).start(deadline=0.5)
    assert host.alive() == []


def test_driver_that_talks_nonsense_is_no_reason_to_fall_over(place):
    host = Host(
        driver='print("hello"); print("[1]"); print(\'{"event":"wanted"}\'); print(\'{"event":"listening","host":1}\')'
        + LISTENING
        + "time.sleep(60)"
    )
    assert place(host).start() == ("127.0.0.1", 1)


def test_worker_that_dies_once_is_replaced(place):
    host = Host(
        driver=LISTENING + "say('wanted', role='worker', count=1)\ntime.sleep(60)", worker="import time; time.sleep(60)"
    )
    launcher = place(host)
    launcher.start()
    wait(lambda: len(host.started) == 2)
    host.started[1][1].kill()
    wait(lambda: len(host.started) == 3 and host.alive() == ["driver", "worker"])
    assert launcher.trouble == ""


def test_worker_that_keeps_dying_is_reported_with_what_it_said(place):
    host = Host(
        driver=LISTENING + "say('wanted', role='worker', count=1)\ntime.sleep(60)",
        worker='import sys; print(\'{"event":"failed","message":"no key for me"}\', flush=True); sys.exit(7)',
    )
    launcher = place(host, restarts=2)
    launcher.start()
    wait(lambda: launcher.trouble)
    assert "the worker ended with code 7" in launcher.trouble
    assert len(host.started) == 4
    time.sleep(0.3)
    assert len(host.started) == 4


def test_job_goes_on_with_the_workers_that_are_left(place):
    host = Host(
        driver=LISTENING + "say('wanted', role='worker', count=2)\ntime.sleep(60)", worker="import time; time.sleep(60)"
    )
    launcher = place(host, restarts=1)
    launcher.start()
    wait(lambda: len(host.started) == 3)
    for dead in (1, 3):
        wait(lambda dead=dead: len(host.started) > dead)
        host.started[dead][1].kill()
        host.started[dead][1].wait()
    time.sleep(0.3)
    assert (launcher.trouble, sorted(host.alive())) == ("", ["driver", "worker"])
    host.started[2][1].kill()
    wait(lambda: "signal SIGKILL" in launcher.trouble)


def test_host_that_cannot_start_a_worker_is_reported(place):
    class Broken(Host):
        def start(self, role, argv, **more):
            if role == "worker":
                raise OSError("out of process numbers")
            return super().start(role, argv, **more)

    launcher = place(Broken(driver=LISTENING + "say('wanted', role='worker', count=1)\ntime.sleep(60)"))
    launcher.start()
    wait(lambda: "out of process numbers" in launcher.trouble)


def test_stop_ends_everything_also_what_was_being_started(place):
    host = Host(
        driver=LISTENING + "say('wanted', role='worker', count=8)\ntime.sleep(60)",
        worker="import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(60)",
    )
    launcher = place(host)
    launcher.start()
    launcher.stop()
    launcher.stop()
    assert host.alive() == []


def test_interrupted_start_leaves_nothing(place):
    host = Host(driver="import time; time.sleep(60)")
    launcher = place(host)
    before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            launcher.start()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert host.alive() == []


def test_death_of_the_driver_is_described_by_its_signal(place):
    host = Host(driver=LISTENING + "time.sleep(60)")
    launcher = place(host)
    launcher.start()
    os.kill(host.started[0][1].pid, signal.SIGKILL)
    wait(lambda: not launcher.running())
    assert "signal SIGKILL" in launcher.driver_end().message
