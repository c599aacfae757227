"""Place one job on lent machines: the driver on the first that answers, members where there is most room.

A machine that is cut off, slow beyond the deadline or dead counts as the end of its processes; the job goes on with
the rest. Nothing here is secret, and nothing that a machine says is believed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from strongroom.errors import StrongroomError
from strongroom.jobs.launch.launcher import Launcher
from strongroom.jobs.launch.placement import HEADS, NoRoomError, PlacementError, PlacementEvent
from strongroom.jobs.launch.standalone.line import ALIVE, ALIVE_SECONDS, SILENCE_SECONDS, ControlLine, connect
from strongroom.jobs.launch.standalone.settings import HostForm, HostSettings
from strongroom.jobs.spec import JobSpec
from strongroom.statements import SigningKey

LOST_CODE = 255
_START_SECONDS = 30.0
_DRIVER_SECONDS = 60.0
_MOST_AT_ONCE = 32
_MOST_WORDS = 1000
_TOLD = ("directory", "engine", "driver", "batch-rows", "batch-wait")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many processes a machine lends, and how many of this job run there."""

    most: int
    running: int


def choose_host(rooms: Sequence[Room | None], *, role: str) -> int | None:
    """Return the number of the machine for a process of ``role``, or None if there is no room.

    The driver goes to the first machine that is there (None stands for one that is not); everybody else to the one
    with the most free places, so that workers spread.
    """
    free = [(room.most - room.running, number) for number, room in enumerate(rooms) if room is not None]
    open_ = [(places, number) for places, number in free if places > 0]
    if not open_:
        return None
    if role in HEADS:
        return open_[0][1]
    return max(open_, key=lambda one: (one[0], -one[1]))[1]


class Words:
    """What a process elsewhere said, line by line, as a stream that ends with it; unread lines beyond 1000 are lost."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def put(self, line: bytes) -> None:
        """Add a line, or the end as an empty one."""
        if not line or self._lines.qsize() < _MOST_WORDS:
            self._lines.put(line)

    def readline(self, limit: int = -1, /) -> bytes:
        """Return the next line, or nothing when it has ended; lines are short, whatever ``limit`` is."""
        del limit
        return self._lines.get()


class RemoteProcess:
    """A process that a machine's agent started; used like ``subprocess.Popen``."""

    def __init__(self, machine: Machine, *, number: int) -> None:
        self._machine = machine
        self._number = number
        self._code: int | None = None
        self._ended = threading.Event()
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.pid = 0
        self.stdout: Words | None = Words()
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, or nothing while it runs."""
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code; raise PlacementError after ``timeout`` seconds."""
        if not self._ended.wait(timeout) or self._code is None:
            raise PlacementError(f"process {self.pid} on {self._machine.name} did not end within {timeout} s")
        return self._code

    def terminate(self) -> None:
        """Ask it to end."""
        self._machine.end(self._number, force=False)

    def kill(self) -> None:
        """End it."""
        self._machine.end(self._number, force=True)

    def say(self, said: Mapping[str, Any]) -> None:
        """Put what it said on its standard output."""
        if self.stdout is not None:
            self.stdout.put(json.dumps(dict(said)).encode() + b"\n")

    def end(self, code: int) -> None:
        """Note its end."""
        with self._lock:
            if self._code is None:
                self._code = code
                if self.stdout is not None:
                    self.stdout.put(b"")
        self._ended.set()


class Machine:
    """One lent machine, as one job's launcher sees it."""

    def __init__(self, name: str, *, line: ControlLine, most: int, on_lost: Callable[[Machine, str], None]) -> None:
        self.name = name
        self.most = most
        self.lost = ""
        self._line = line
        self._on_lost = on_lost
        self._processes: dict[int, RemoteProcess] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        threading.Thread(target=self._hear, name=f"hears-{self.name}", daemon=True).start()
        threading.Thread(target=self._beat, name=f"alive-{self.name}", daemon=True).start()

    @property
    def room(self) -> Room | None:
        """Return how much room there is, or None if the machine is lost."""
        with self._lock:
            running = sum(process.poll() is None for process in self._processes.values())
        return None if self.lost else Room(most=self.most, running=running)

    def start(self, request: Mapping[str, Any]) -> RemoteProcess:
        """Have a process started; raise NoRoomError if other jobs took the places, PlacementError if it is refused."""
        number = next(self._numbers)
        process = RemoteProcess(self, number=number)
        with self._lock:
            self._processes[number] = process
        try:
            self._line.send({"type": "start", "id": number, **request})
            said = process.answers.get(timeout=_START_SECONDS)
        except queue.Empty:
            said = {"why": f"it did not start the {request['role']} within {_START_SECONDS:.0f} s"}
        except StrongroomError as error:
            said = {"why": error.message}
        match said.get("type"):
            case "started":
                return process
            case "full":
                process.end(LOST_CODE)
                raise NoRoomError(f"{self.name} is full", hint="its processes are taken by other jobs")
        self.end(number, force=True)  # should it start after all
        process.end(LOST_CODE)
        raise PlacementError(f"{self.name} refused: {str(said.get('why', 'no reason was given'))[:300]}")

    def end(self, number: int, *, force: bool) -> None:
        """Ask for the end of one process; on a machine that is lost it is none of ours any more."""
        with contextlib.suppress(StrongroomError):
            self._line.send({"type": "end", "id": number, "force": force})

    def close(self) -> None:
        """End the line, and with it whatever of this job still runs there."""
        self._closing.set()
        self._line.close()

    def _beat(self) -> None:
        while not self._closing.wait(ALIVE_SECONDS):
            with contextlib.suppress(StrongroomError):
                self._line.send(ALIVE)

    def _hear(self) -> None:
        try:
            while True:
                self._take(self._line.receive(seconds=SILENCE_SECONDS))
        except (StrongroomError, KeyError, TypeError, ValueError, OverflowError) as error:
            why = error.message if isinstance(error, StrongroomError) else f"{self.name} talks nonsense"
            self.lost = why
            self._line.close()
            with self._lock:
                left = [process for process in self._processes.values() if process.poll() is None]
            for process in left:
                process.say({"event": "failed", "kind": "host-lost", "message": f"its machine was lost: {why}"})
                process.answers.put({"why": why})
                process.end(LOST_CODE)
            if not self._closing.is_set():
                self._on_lost(self, why)

    def _take(self, said: dict[str, Any]) -> None:
        with self._lock:
            process = self._processes.get(said.get("id", -1))
        if process is None:
            return
        match said.get("type"):
            case "started" if process.answers.empty():
                process.pid = int(said["pid"])
                process.answers.put(said)
            case "full" | "refused" if process.answers.empty():
                process.answers.put(said)
            case "said" if isinstance(said["said"], dict):
                process.say(said["said"])
            case "ended":
                process.end(int(said["code"]))


class HostPool:
    """The machines of ``settings``, as ``key``'s party may use them; ``directory`` lies on storage that all share."""

    def __init__(self, settings: HostSettings, *, key: SigningKey, directory: Path) -> None:
        self.settings = settings
        self.key = key
        self.directory = directory

    @property
    def broker_url(self) -> str:
        """Return nothing: lent machines reach the broker where the client does."""
        return ""

    def place(
        self,
        spec: JobSpec,
        *,
        job_digest: str,
        engine: str,
        on_event: Callable[[PlacementEvent], None],
        more: Sequence[str] = (),
    ) -> StandaloneLauncher:
        """Return the job's placement, not started yet."""
        head = "endpoint" if spec.kind == "serve" else "driver"
        return StandaloneLauncher(
            self, job_digest=job_digest, engine=engine, on_event=on_event, head=head, more=tuple(more)
        )


class StandaloneLauncher(Launcher):
    """One job's processes on lent machines; used as :class:`~strongroom.jobs.launch.placement.Launcher` is."""

    def __init__(
        self,
        pool: HostPool,
        *,
        job_digest: str,
        engine: str,
        on_event: Callable[[PlacementEvent], None],
        head: str,
        more: Sequence[str],
    ) -> None:
        self._machines = Machines(pool, job_digest=job_digest, on_event=on_event)
        super().__init__(
            self._machines,
            directory=pool.directory,
            job_digest=job_digest,
            engine=engine,
            on_event=on_event,
            head=head,
            more=more,
        )

    def start(self, *, deadline: float = _DRIVER_SECONDS) -> tuple[str, int]:
        """Connect to the machines, start the driver and return the address where it can be attested."""
        self._machines.connect()
        return super().start(deadline=deadline)

    def stop(self) -> None:
        """End everything and leave the machines; safe to call twice."""
        super().stop()
        self._machines.close()


class Machines:
    """The machines that one job's launcher is connected to; they start processes as one TEE host does."""

    def __init__(self, pool: HostPool, *, job_digest: str, on_event: Callable[[PlacementEvent], None]) -> None:
        self._pool = pool
        self._job_digest = job_digest
        self._on_event = on_event
        self._machines: list[Machine] = []

    def connect(self) -> None:
        """Connect to every machine at once; raise PlacementError with every reason if none is there."""
        reasons = []
        forms = self._pool.settings.hosts
        with ThreadPoolExecutor(min(len(forms), _MOST_AT_ONCE)) as pool:
            for form, reached in [(form, pool.submit(self._reach, form)) for form in forms]:
                try:
                    self._machines.append(reached.result())
                except StrongroomError as error:
                    why = "; ".join((error.message, *getattr(error, "reasons", ())))
                    reasons.append(why)
                    self._on_event(PlacementEvent(kind="waits", role=form.address, detail={"why": why}))
        if not self._machines:
            raise PlacementError(
                f"no machine is there: {'; '.join(reasons)}", hint="does `strongroom worker join` run?"
            )

    def start(
        self,
        role: str,
        argv: Sequence[str],
        *,
        job_digest: str = "",
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> RemoteProcess:
        """Start one process where there is room; a machine that is lost meanwhile is passed over.

        Raises NoRoomError if every place is taken, PlacementError with every reason if no machine takes it.
        """
        del job_digest, stdout, stderr  # the line was opened for this job, and the agent keeps the log there
        given = dict(zip((option.lstrip("-") for option in argv[::2]), argv[1::2], strict=True))
        request = {"role": role, "name": given.get("name", role)}
        request |= {field: given[field] for field in _TOLD if field in given}
        full: set[int] = set()
        refusals: dict[int, str] = {}
        while True:
            tried = full | set(refusals)
            rooms = [None if number in tried else machine.room for number, machine in enumerate(self._machines)]
            chosen = choose_host(rooms, role=role)
            if chosen is None:
                break
            try:
                return self._machines[chosen].start(request)
            except NoRoomError:
                full.add(chosen)
            except PlacementError as error:
                refusals[chosen] = error.message
        willing = [m for number, m in enumerate(self._machines) if m.room is not None and number not in refusals]
        reasons = "; ".join([*refusals.values(), *(machine.lost for machine in self._machines if machine.lost)])
        if willing:
            also = f" ({reasons})" if reasons else ""
            raise NoRoomError(f"every place on the machines is taken, and the job wants one more {role}{also}")
        raise PlacementError(
            f"no machine takes the {role}: {reasons}",
            hint="the job's directory must lie below what the machines name, on storage that they share: --directory",
        )

    def close(self) -> None:
        """Leave every machine; what still runs there of this job ends."""
        for machine in self._machines:
            machine.close()

    def _reach(self, form: HostForm) -> Machine:
        line, most = connect(
            form.endpoint, certificate=form.certificate, key=self._pool.key, job_digest=self._job_digest
        )
        return Machine(form.address, line=line, most=most, on_lost=self._tell_lost)

    def _tell_lost(self, machine: Machine, why: str) -> None:
        self._on_event(PlacementEvent(kind="lost", role=machine.name, detail={"why": why}))
