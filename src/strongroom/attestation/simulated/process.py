"""Start a measured process so that it runs what was measured, in a clean environment, and never outlives its platform.

The process leads its own process group and is killed by the kernel when the platform's process dies. It sees nothing of
this process's environment except a short list of names.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO

from strongroom.errors import UsageError

FD_VARIABLE = "STRONGROOM_SIMULATED_TEE_FD"

_INHERITED = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "TZ", "JAVA_HOME", "SPARK_HOME"})
_GIVEN = frozenset({"SPARK_LOCAL_IP", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX"})
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

Stream = int | IO[bytes] | None


class SimulatedProcess:
    """A running workload, with the methods of ``subprocess.Popen``.

    It is one TEE: when its process has ended, for whatever reason, whatever it started is ended too.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, measurement: str) -> None:
        self._process = process
        self.measurement = measurement

    @property
    def pid(self) -> int:
        """Return the process id, which is also its process group's."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes] | None:
        """Return the pipe from its standard output, if one was asked for."""
        return self._process.stdout

    @property
    def stderr(self) -> IO[bytes] | None:
        """Return the pipe from its standard error, if one was asked for."""
        return self._process.stderr

    @property
    def returncode(self) -> int | None:
        """Return the exit status that was last seen, or None."""
        return self._process.returncode

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if self._process.returncode is None and self._has_ended(os.WNOHANG):
            self._end_group()
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        if timeout is None:
            if self._process.returncode is None and self._has_ended(0):
                self._end_group()
            return self._process.wait()
        until = time.monotonic() + timeout
        pause = 0.001
        while (status := self.poll()) is None:
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired(self._process.args, timeout)
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        return status

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process and everything it started in its group (SIGKILL)."""
        if self._process.returncode is None:
            self._end_group()

    def stop(self, *, grace: float = 5.0) -> int:
        """End the process, first politely and after ``grace`` seconds by force; return its exit status."""
        self.terminate()
        try:
            return self.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait(grace)

    def _has_ended(self, flags: int) -> bool:
        """Say whether the process has ended, without reaping it: its number, which names the group, stays taken."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | flags) is not None
        except ChildProcessError:
            return False  # another thread has reaped it, and ended the group before

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Spawner:
    """The one thread that starts processes.

    The kernel kills a child when the *thread* that started it ends, so that thread has to live as long as the process.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._work = queue.SimpleQueue()
        threading.Thread(target=self._run, name="simulated-tee-spawner", daemon=True).start()

    def spawn(
        self,
        entry: str,
        argv: Sequence[str],
        *,
        import_root: Path,
        line: socket.socket,
        env: Mapping[str, str],
        stdout: Stream,
        stderr: Stream,
    ) -> subprocess.Popen[bytes]:
        """Start ``python -m entry argv`` importing strongroom from ``import_root``, with ``line`` inherited."""
        environment = {
            **clean_environment(env),
            "PYTHONPATH": str(import_root),
            "PYTHONDONTWRITEBYTECODE": "1",  # the measured tree stays as it was measured
            "PYTHONUNBUFFERED": "1",  # the host line is read while the process runs
            FD_VARIABLE: str(line.fileno()),
        }
        # -P: the working directory is not imported from. -s: neither is the home directory.
        command = [sys.executable, "-P", "-s", "-m", entry, *argv]
        parent = os.getpid()

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(line.fileno(),),
                process_group=0,
                preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509  one libc call, loaded before the fork
            )

        future: Future[subprocess.Popen[bytes]] = Future()
        self._work.put((start, future))
        return future.result()

    def _run(self) -> None:
        while True:
            start, future = self._work.get()
            try:
                future.set_result(start())
            except BaseException as error:  # noqa: BLE001  it is raised again where the result is awaited
                future.set_exception(error)


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a workload: a few names of the host's, and ``given``; refuse what could load code."""
    refused = sorted(name for name in given if not _may_be_given(name))
    if refused:
        raise UsageError(
            f"a simulated TEE passes no environment variable {', '.join(refused)}",
            hint="hand settings over as arguments; the environment could replace what was measured",
        )
    inherited = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}
    return {**inherited, **given}


def _may_be_given(name: str) -> bool:
    own = name.startswith("STRONGROOM_") and name != FD_VARIABLE
    return own or name in _INHERITED or name in _GIVEN or name.startswith("LC_")


def _die_with(parent: int) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between fork and here
        os._exit(1)
