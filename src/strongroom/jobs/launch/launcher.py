"""Start a job's processes through a TEE host and keep as many as the driver wants (spec/3-job.md §7).

The driver says on its standard output, one JSON object a line, what it wants; this side starts processes and reports
what became of them. It never relays a secret and never decides whether a process may join.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strongroom.errors import StrongroomError, TransportError
from strongroom.jobs.launch.placement import (
    NoRoomError,
    PlacementError,
    PlacementEvent,
    RunningProcess,
    TeeHost,
    parse_port,
    say_lines,
)
from strongroom.jobs.launch.wishes import Wishes

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 5.0
_MOST_QUOTED = 300
_ROOM_SECONDS = 60.0
_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A process that was started for a role, and when."""

    role: str
    process: RunningProcess
    started: float


class Launcher:
    """One job's processes on one host, from the driver's start to the last process's end.

    ``restarts`` bounds how many workers may be replaced in the life of the job; a process that keeps dying is a
    fault to report, not to hide. ``head`` is the role that is started first and conducts the job, ``more`` what it is
    told besides.
    """

    def __init__(
        self,
        host: TeeHost,
        *,
        directory: Path,
        job_digest: str,
        engine: str,
        on_event: Callable[[PlacementEvent], None] = lambda _event: None,
        restarts: int = 4,
        head: str = "driver",
        more: Sequence[str] = (),
    ) -> None:
        self._head = head
        self._more = tuple(more)
        self._host = host
        self._directory = directory
        self._job_digest = job_digest
        self._engine = engine
        self._on_event = on_event
        self._driver: RunningProcess | None = None
        self._members: dict[str, _Member] = {}
        self._dismissed: set[str] = set()
        self._no_room_since = 0.0
        self._wishes = Wishes(restarts=restarts)
        self._address: tuple[str, int] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._started = 0
        self._keeper = threading.Thread(target=self._keep, name="placement", daemon=True)
        self._trouble = ""
        self._last_said: dict[str, str] = {}

    def start(self, *, deadline: float = 30.0) -> tuple[str, int]:
        """Start the driver and return the address where it can be attested.

        Raises PlacementError if it dies or stays silent for ``deadline`` seconds; nothing it started is left then.
        """
        try:
            return self._start(deadline)
        except BaseException:  # also Ctrl-C
            self.stop()
            raise

    def _start(self, deadline: float) -> tuple[str, int]:
        self._directory.mkdir(parents=True, exist_ok=True)
        argv = ["--directory", str(self._directory), "--engine", self._engine, "--job-digest", self._job_digest]
        self._driver = self._spawn(self._head, self._head, [*argv, *self._more])
        threading.Thread(target=self._hear_driver, args=(self._driver,), name="driver-says", daemon=True).start()
        self._keeper.start()
        until = time.monotonic() + deadline
        while self._address is None:
            if self._driver.poll() is not None:
                raise self.driver_end()
            if time.monotonic() > until:
                raise TransportError(
                    f"the {self._head} said nothing for {deadline:.0f} s", hint="is the machine overloaded?"
                )
            time.sleep(_POLL_SECONDS / 5)
        return self._address

    @property
    def start_address(self) -> tuple[str, int]:
        """Return the address the driver announced; raise PlacementError if there is none yet."""
        if self._address is None:
            raise PlacementError("the driver was not started")
        return self._address

    def want(self, role: str, count: int) -> None:
        """Start ``count`` processes of ``role`` ahead of the driver's own wish, to save time."""
        with self._lock:
            self._wishes.foresee(role, count)

    @property
    def processes(self) -> dict[str, list[int]]:
        """Return the process ids by role, for measurements of memory and for tests."""
        with self._lock:
            found: dict[str, list[int]] = {}
            if self._driver is not None:
                found[self._head] = [self._driver.pid]
            for member in self._members.values():
                found.setdefault(member.role, []).append(member.process.pid)
            return found

    def running(self) -> bool:
        """Return whether the driver is still alive."""
        return self._driver is not None and self._driver.poll() is None

    @property
    def trouble(self) -> str:
        """Return why the members that the driver wants cannot be kept alive, or nothing."""
        return self._trouble

    def driver_end(self) -> PlacementError:
        """Return what the host knows about the end of the driver."""
        code = self._driver.poll() if self._driver is not None else None
        ended = "still runs" if code is None else f"ended with {_describe_code(code)}"
        return PlacementError(
            f"the {self._head} {ended}{self._quote(self._head)}",
            hint=f"see {self._directory / 'logs'}; submit the job again",
        )

    def dismiss(self) -> None:
        """Ask the driver to end in order; what it says until then still arrives."""
        if self._driver is not None:
            self._driver.terminate()

    def stop(self) -> None:
        """End every process: first politely, after five seconds by force; safe to call twice."""
        self._closing.set()
        if self._keeper.ident is not None:
            self._keeper.join(_GRACE_SECONDS)  # it may be starting one more
        with self._lock:
            everyone = [member.process for member in self._members.values()]
        if self._driver is not None:
            everyone.append(self._driver)
        end_processes(everyone)

    def _spawn(self, role: str, name: str, argv: Sequence[str]) -> RunningProcess:
        logs = self._directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            try:
                process = self._host.start(role, argv, job_digest=self._job_digest, stdout=-1, stderr=log)
            except OSError as error:
                raise PlacementError(f"cannot start the {role}: {error}") from error
        self._on_event(PlacementEvent(kind="started", role=role, detail={"pid": process.pid}))
        return process

    def _hear_driver(self, driver: RunningProcess) -> None:
        """Take in what the driver says, and do what it wants of the host."""
        for said in say_lines(driver):
            try:
                if said.get("event") == "listening":
                    self._address = (str(said["host"]), parse_port(said["port"]))
                elif said.get("event") == "wanted":
                    with self._lock:
                        self._wishes.take(str(said["role"]), int(said["count"]))
                elif said.get("event") == "lost":
                    self._end_lost(str(said["name"]))
                elif said.get("event") == "finished":
                    with self._lock:
                        self._wishes.clear()
            except (KeyError, TypeError, ValueError, OverflowError):  # JSON's Infinity is no number
                continue  # not what a driver says
            self._note(self._head, said)

    def _hear_member(self, role: str, member: RunningProcess) -> None:
        """Report what a member says; nothing it says changes what the host does."""
        for said in say_lines(member):
            self._note(role, said)

    def _keep(self) -> None:
        """Keep as many members alive as are wanted, until the driver ends or the launcher closes."""
        while not self._closing.wait(_POLL_SECONDS):
            if not self.running():
                return
            if self._address is None:
                continue
            self._reap()
            now = time.monotonic()
            with self._lock:
                have = Counter(member.role for member in self._members.values())
                missing = self._wishes.missing(have, now=now)
                surplus = self._wishes.surplus(have, now=now)
            self._end_surplus(surplus)
            try:
                for role in missing:
                    self._start_member(role)
            except NoRoomError as error:
                self._wait_for_room(role, error, have=have[role])
            except StrongroomError as error:
                self._trouble = error.message
                return
            else:
                self._no_room_since = 0.0

    def _wait_for_room(self, role: str, error: NoRoomError, *, have: int) -> None:
        """Try again in a while; give up after a minute in which nobody of this role was there."""
        now = time.monotonic()
        if not self._no_room_since:
            self._no_room_since = now
            self._on_event(PlacementEvent(kind="waits", role=role, detail={"why": error.message}))
        if not have and now - self._no_room_since > _ROOM_SECONDS:
            self._trouble = error.message
        with self._lock:
            self._wishes.postpone(role, until=now + _AGAIN_SECONDS)

    def _note(self, role: str, said: dict[str, Any]) -> None:
        if said.get("event") in {"failed", "refused"}:
            self._last_said[role] = str(said.get("message") or said.get("kind"))[:_MOST_QUOTED]
        self._on_event(PlacementEvent(kind="said", role=role, detail=said))

    def _quote(self, role: str) -> str:
        return f"; it said: {self._last_said[role]}" if role in self._last_said else ""

    def _reap(self) -> None:
        now = time.monotonic()
        with self._lock:
            ended = [(name, member, member.process.poll()) for name, member in self._members.items()]
            ended = [(name, member, code) for name, member, code in ended if code is not None]
            for name, member, code in ended:
                del self._members[name]
                role = member.role
                well = code == 0 or name in self._dismissed
                replaced = self._wishes.end(role, well=well, lived=now - member.started, now=now)
                left = any(other.role == role for other in self._members.values())
                if not replaced and not left:  # the rest could go on without it
                    self._trouble = (
                        f"the {role} ended with {_describe_code(code)}, and as many were replaced as may be"
                        f"{self._quote(role)}"
                    )
        for _, member, code in ended:
            detail = {"pid": member.process.pid, "code": code}
            self._on_event(PlacementEvent(kind="ended", role=member.role, detail=detail))

    def _end_lost(self, name: str) -> None:
        """End a member that the driver lost: it may be stopped, and would never end by itself."""
        with self._lock:
            member = self._members.get(name)
        if member is not None:
            member.process.kill()

    def _end_surplus(self, surplus: Mapping[str, int]) -> None:
        """Ask the newest members beyond what is wanted to end."""
        for role, count in surplus.items():
            with self._lock:
                found = [name for name, member in self._members.items() if member.role == role][-count:]
                leaving = [self._members[name] for name in found if name not in self._dismissed]
                self._dismissed.update(found)
            for member in leaving:
                member.process.terminate()

    def _start_member(self, role: str) -> None:
        if self._address is None or self._closing.is_set():
            return
        host, port = self._address
        self._started += 1
        name = f"{role}-{self._started}"
        argv = ["--driver", f"{host}:{port}", "--job-digest", self._job_digest, "--directory", str(self._directory)]
        process = self._spawn(role, name, [*argv, "--name", name])
        with self._lock:
            self._members[name] = _Member(role=role, process=process, started=time.monotonic())
        threading.Thread(target=self._hear_member, args=(role, process), name=f"{role}-says", daemon=True).start()


def end_processes(everyone: Sequence[RunningProcess]) -> None:
    """End processes: first politely, after five seconds by force.

    A worker takes the first request for a drain of its machine, and the second at its word.
    """
    for _ in range(2):
        for process in everyone:
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + _GRACE_SECONDS / 2
        while any(process.poll() is None for process in everyone) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
    for process in everyone:
        if process.poll() is None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired, PlacementError):  # a machine out of reach
                process.wait(timeout=_GRACE_SECONDS)


def _describe_code(code: int | None) -> str:
    if code is None or code >= 0:
        return f"code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
