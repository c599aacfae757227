"""Name what a place for a job's processes is to whoever starts them, watches them or leaves them (spec/3-job.md §7)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

from strongroom.errors import StrongroomError

if TYPE_CHECKING:
    from strongroom.jobs.spec import JobSpec

HEADS = ("driver", "endpoint")  # the roles that conduct a job: started first, and asked for by nobody

_MAX_LINE = 1 << 16
_MOST_PORT = 65_535


class PlacementError(StrongroomError):
    """A process of the job could not be started, or died before it was of use."""


class DriverLostError(PlacementError):
    """The driver died or fell silent in mid-job, with all its secrets; the job may be placed again with a new one."""


class NoRoomError(PlacementError):
    """No place is free for one more process now; there may be one later."""


class Lines(Protocol):
    """A stream of lines; a pipe is one."""

    def readline(self, limit: int = -1, /) -> bytes:
        """Return the next line, or nothing at the end."""
        ...


class RunningProcess(Protocol):
    """A process that a TEE host started; the methods are those of ``subprocess.Popen``."""

    @property
    def pid(self) -> int:
        """Return the process number on the host."""
        ...

    @property
    def stdout(self) -> Lines | None:
        """Return the stream of what it says, if it was asked for."""
        ...

    def poll(self) -> int | None:
        """Return the exit code, or nothing while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


class TeeHost(Protocol):
    """Whatever can start a measured process: the simulated TEE, Gramine, a virtual machine, a pod."""

    def start(
        self,
        role: str,
        argv: Sequence[str],
        *,
        job_digest: str = "",
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
    ) -> RunningProcess:
        """Start the entry point of ``role`` with ``argv``, bound to the job."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementEvent:
    """Something the host saw: a process started or ended, or the driver said something."""

    kind: str
    role: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Placement(Protocol):
    """One job as it is placed somewhere: what a client needs of it until the job's end."""

    @property
    def start_address(self) -> tuple[str, int]:
        """Return where the driver can be attested."""
        ...

    @property
    def trouble(self) -> str:
        """Return why the job cannot go on as its host stands, or nothing."""
        ...

    def start(self) -> tuple[str, int]:
        """Start the driver and return the address where it can be attested."""
        ...

    def want(self, role: str, count: int) -> None:
        """Start ``count`` processes of ``role`` ahead of the driver's own wish."""
        ...

    def running(self) -> bool:
        """Return whether the driver is still alive."""
        ...

    def driver_end(self) -> PlacementError:
        """Return what the host knows about the end of the driver."""
        ...

    def dismiss(self) -> None:
        """Ask the first process to end in order, and return at once."""
        ...

    def stop(self) -> None:
        """End everything that was started."""
        ...


@runtime_checkable
class Leavable(Protocol):
    """What a placement has besides that can go on without its client: a keeper on the host, and a history there."""

    @property
    def name(self) -> str:
        """Return the job's name on the host."""
        ...

    def address_within(self) -> tuple[str, int]:
        """Return where the first process is reached from within the host."""
        ...

    def note(self, what: str, **facts: Any) -> None:  # noqa: ANN401  JSON values
        """Write into the job's history what the client did."""
        ...

    def note_end(self, state: str, *, why: str = "") -> None:
        """Write into the job's history how it ended."""
        ...

    def leave(self) -> None:
        """Go away and leave everything running."""
        ...


@runtime_checkable
class JobHost(Protocol):
    """Whatever can place a whole job, such as a cluster; a :class:`TeeHost` starts one process."""

    @property
    def broker_url(self) -> str:
        """Return where processes there reach the broker; nothing if they reach it where the client does."""
        ...

    def place(
        self,
        spec: JobSpec,
        *,
        job_digest: str,
        engine: str,
        on_event: Callable[[PlacementEvent], None],
        more: Sequence[str] = (),
    ) -> Placement:
        """Return the job's placement, not started yet; ``more`` is what its first process is told besides."""
        ...


def parse_port(value: object) -> int:
    """Return a port that somebody untrusted named; raise ValueError unless it is one."""
    if type(value) is not int or not 0 < value <= _MOST_PORT:
        raise ValueError(f"not a port: {str(value)[:20]}")
    return value


def say_lines(process: RunningProcess) -> Iterator[dict[str, Any]]:
    """Yield what a process says, one JSON object a line; anything else is ignored, for it may be anyone's."""
    stream = process.stdout
    while stream is not None and (line := stream.readline(_MAX_LINE)):
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(said, dict):
            yield said
