"""Lend this machine to jobs of named parties: start measured processes for their launchers, and end them with the line.

Untrusted host software. It holds no secret of a job, gives nothing to the processes it starts but their arguments, and
decides nothing about admission: whatever it starts has to prove itself to the driver and the broker.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from strongroom.errors import RefusedError, StrongroomError, TransportError, UsageError
from strongroom.jobs.launch.launcher import end_processes
from strongroom.jobs.launch.placement import HEADS, RunningProcess, TeeHost, say_lines
from strongroom.jobs.launch.standalone.line import (
    ALIVE,
    ALIVE_SECONDS,
    SILENCE_SECONDS,
    AgentCertificate,
    ControlLine,
    HostLostError,
)
from strongroom.statements import PartyId

ROLES = (*HEADS, "worker", "egress")
_ENGINES: Mapping[str, Collection[str]] = {"driver": ("embedded", "spark", "torch"), "endpoint": ("serving",)}
_BATCHING = {"batch-rows": re.compile(r"^[0-9]{1,4}$"), "batch-wait": re.compile(r"^[0-9]{1,4}(\.[0-9]{1,9})?$")}
_NAME = re.compile(r"^[a-z]{1,16}-?[0-9]{0,9}$")
_ADDRESS = re.compile(r"^[0-9A-Za-z.:-]{1,255}:[0-9]{1,5}$")
_MOST_LINES = 64
_MOST_NEWCOMERS = 64


class HostAgent:
    """One lent machine.

    ``host`` starts the processes, at most ``most`` at once over all jobs, for launchers of the parties in ``admits``.
    A job's directory must lie below ``jobs``, on storage that all machines share. ``on_event`` hears what happens.
    """

    def __init__(
        self,
        host: TeeHost,
        *,
        certificate: AgentCertificate,
        admits: Collection[PartyId],
        jobs: Path,
        logs: Path,
        most: int,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda _name, _facts: None,
    ) -> None:
        if not admits:
            raise UsageError("a machine is lent to somebody", hint="name the parties: --admit PARTY")
        self.certificate = certificate
        self.most = most
        self._host = host
        self._admits = frozenset(admits)
        self._jobs = jobs.resolve()
        self._logs = logs
        self._on_event = on_event
        self._running = 0
        self._lines: set[ControlLine] = set()
        self._newcomers: dict[socket.socket, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def listen(self, address: tuple[str, int]) -> tuple[str, int]:
        """Listen at ``address`` and return it, with the port that was free if it names port 0."""
        try:
            self._socket = socket.create_server(address, backlog=64)
        except OSError as error:
            raise TransportError(
                f"cannot listen at {address[0]}:{address[1]}: {error.strerror}", hint="choose another address or port"
            ) from error
        host, port = self._socket.getsockname()[:2]
        threading.Thread(target=self._accept, args=(self._socket,), name="host-agent", daemon=True).start()
        return host, port

    def close(self) -> None:
        """Stop listening and end every job's processes here; safe to call twice."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            line.close()
        until = time.monotonic() + SILENCE_SECONDS
        while self._running and time.monotonic() < until:
            time.sleep(0.05)

    def take_place(self) -> bool:
        """Count in one more process, if one may run; called by a session."""
        with self._lock:
            if self._running >= self.most:
                return False
            self._running += 1
            return True

    def give_place(self) -> None:
        """Count out a process that ended."""
        with self._lock:
            self._running -= 1

    def _accept(self, listening: socket.socket) -> None:
        free = threading.Semaphore(_MOST_LINES)
        while True:
            try:
                plain, peer = listening.accept()
            except OSError:
                if listening.fileno() < 0:
                    return
                time.sleep(0.05)  # out of descriptors: let some lines end
                continue
            threading.Thread(target=self._serve, args=(plain, peer[0], free), daemon=True).start()

    @contextlib.contextmanager
    def _hear_out(self, plain: socket.socket) -> Iterator[None]:
        """Hear one newcomer out; when too many are heard at once, the one that takes longest is hung up on."""
        handle = plain.dup()  # the socket itself becomes the line's
        with self._lock:
            self._newcomers[handle] = None
            stale = next(iter(self._newcomers)) if len(self._newcomers) > _MOST_NEWCOMERS else None
            if stale is not None:
                del self._newcomers[stale]
        try:
            if stale is not None:
                with contextlib.suppress(OSError):
                    stale.shutdown(socket.SHUT_RDWR)
            yield
        finally:
            with self._lock:
                self._newcomers.pop(handle, None)
            handle.close()

    def _serve(self, plain: socket.socket, peer: str, free: threading.Semaphore) -> None:
        try:
            with self._hear_out(plain):
                line, job = self.certificate.accept(plain, admits=self._admits)
        except (StrongroomError, OSError) as error:
            plain.close()
            why = error.message if isinstance(error, StrongroomError) else "it does not speak TLS 1.3"
            self._on_event("stranger-refused", {"peer": peer, "why": why})
            return
        if not free.acquire(blocking=False):
            line.close()
            self._on_event("job-left", {"job": job, "why": f"{_MOST_LINES} jobs are here already"})
            return
        with self._lock:
            self._lines.add(line)
        self._on_event("job-came", {"peer": peer, "job": job})
        session = _Session(self, self._host, line=line, job=job, jobs=self._jobs, logs=self._logs)
        try:
            line.send({"type": "welcome", "most": self.most})
            session.serve()
        except StrongroomError as error:
            self._on_event("job-left", {"job": job, "why": error.message})
        finally:
            with self._lock:
                self._lines.discard(line)
            line.close()
            session.end()
            free.release()


class _Session:
    """What one launcher had started here; it ends with the line."""

    def __init__(self, agent: HostAgent, host: TeeHost, *, line: ControlLine, job: str, jobs: Path, logs: Path) -> None:
        self._agent = agent
        self._host = host
        self._line = line
        self._job = job
        self._jobs = jobs
        self._logs = logs
        self._processes: dict[int, RunningProcess] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def serve(self) -> None:
        """Do what the launcher asks until it leaves or falls silent."""
        threading.Thread(target=self._beat, name="host-alive", daemon=True).start()
        while True:
            said = self._line.receive(seconds=SILENCE_SECONDS)
            match said.get("type"):
                case "start":
                    self._start(said)
                case "end":
                    self._end_one(said)
                case "alive":
                    continue
                case _:
                    raise HostLostError("the launcher said something that is no request")

    def end(self) -> None:
        """End every process of this job."""
        self._over.set()
        with self._lock:
            left = list(self._processes.values())
        end_processes(left)

    def _beat(self) -> None:
        while not self._over.wait(ALIVE_SECONDS):
            with contextlib.suppress(StrongroomError):
                self._line.send(ALIVE)

    def _start(self, said: Mapping[str, Any]) -> None:
        number = int(said["id"]) if isinstance(said.get("id"), int) else -1
        try:
            with self._lock:
                if number < 0 or number in self._processes:
                    raise _refuse(f"{said.get('id')!r} is no new process's number")
            role, argv = self._compose(said)
            if not self._agent.take_place():
                self._line.send({"type": "full", "id": number})
                return
        except RefusedError as error:
            self._line.send({"type": "refused", "id": number, "why": error.message})
            return
        try:
            process = self._spawn(role, str(said.get("name") or role), argv)
        except (StrongroomError, OSError) as error:
            self._agent.give_place()
            why = error.message if isinstance(error, StrongroomError) else f"cannot start the {role}: {error.strerror}"
            self._line.send({"type": "refused", "id": number, "why": why})
            return
        with self._lock:
            self._processes[number] = process
        # First of all somebody waits for its end: the line may be broken by now, and its place must come free.
        threading.Thread(target=self._follow, args=(number, process), name=f"{role}-{number}", daemon=True).start()
        self._line.send({"type": "started", "id": number, "pid": process.pid})

    def _compose(self, said: Mapping[str, Any]) -> tuple[str, list[str]]:
        """Return the role and its arguments, written here from fields that were checked; raise RefusedError."""
        role, directory = str(said.get("role")), Path(str(said.get("directory")))
        name, driver, engine = str(said.get("name", "")), str(said.get("driver", "")), str(said.get("engine", ""))
        if role not in ROLES or not _NAME.match(name):
            raise _refuse(f"no role is called {role!r} with a process {name!r}")
        if not directory.is_absolute() or self._jobs not in (directory.resolve(), *directory.resolve().parents):
            raise _refuse(f"jobs of this machine work below {self._jobs}, not in {directory}")
        if not directory.is_dir():
            raise _refuse(f"{directory} does not exist on this machine: is it on storage that all machines share?")
        argv = ["--directory", str(directory), "--job-digest", self._job]
        if role in HEADS:
            if engine not in _ENGINES[role]:
                raise _refuse(f"no engine of a {role} is called {engine!r}")
            own = self._line.own_host
            argv += ["--engine", engine, "--listen", f"{own}:0"]
            return role, [*argv, *(_batching(said) if role == "endpoint" else ("--address", own))]
        if not _ADDRESS.match(driver):
            raise _refuse(f"{driver!r} is no address of a driver")
        return role, [*argv, "--driver", driver, "--name", name]

    def _spawn(self, role: str, name: str, argv: list[str]) -> RunningProcess:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._logs / f"{self._job.rpartition(':')[2][:16]}-{name}.log").open("ab") as log:
            return self._host.start(role, argv, job_digest=self._job, stdout=subprocess.PIPE, stderr=log)

    def _follow(self, number: int, process: RunningProcess) -> None:
        """Pass on what a process says, and its end."""
        with contextlib.suppress(StrongroomError):
            for said in say_lines(process):
                if len(json.dumps(said)) < 1 << 15:
                    self._line.send({"type": "said", "id": number, "said": said})
        code = process.wait()
        self._agent.give_place()
        with self._lock:
            self._processes.pop(number, None)
        with contextlib.suppress(StrongroomError):
            self._line.send({"type": "ended", "id": number, "code": code})

    def _end_one(self, said: Mapping[str, Any]) -> None:
        with self._lock:
            process = self._processes.get(said.get("id", -1))
        if process is not None:
            (process.kill if said.get("force") is True else process.terminate)()


def _batching(said: Mapping[str, Any]) -> list[str]:
    """Return the endpoint's arguments that say how it batches; raise RefusedError if they are no numbers."""
    argv = []
    for option, form in _BATCHING.items():
        if option in said:
            if not form.match(str(said[option])):
                raise _refuse(f"{str(said[option])[:20]!r} is no {option}")
            argv += [f"--{option}", str(said[option])]
    return argv


def _refuse(why: str) -> RefusedError:
    return RefusedError(why, reasons=(why,))
