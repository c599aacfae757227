"""Run the analyst's program in the driver, with the room in reach and no way to talk to the host.

Whatever the program prints goes nowhere: standard output and error of a TEE belong to the host. When it fails, only the
exception's type and the program's line leave the TEE, for a message may quote data (spec/3-job.md §8).
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.collectives import guard_collectives
from strongroom.workload.confinement import confine
from strongroom.workload.inside import Room, enter

_FILE = "program.py"
_TEMPORARY = ("TMPDIR", "TMP", "TEMP", "JOBLIB_TEMP_FOLDER", "MPLCONFIGDIR", "XDG_CACHE_HOME")
_PACKAGE = Path(__file__).resolve().parents[1]


class ProgramError(StrongroomError):
    """The program failed; the message says where and with what kind of exception, and quotes nothing."""


def run_program(source: bytes, room: Room) -> None:
    """Run ``source`` as ``__main__`` with ``strongroom.workload.room`` set to ``room``.

    Raises ProgramError if it fails, UsageError if it leaves a declared output unwritten, and whatever Strongroom itself
    raised inside it.
    """
    enter(room)
    guard_collectives()
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = _FILE
    before = sys.modules.get("__main__")
    try:
        code = compile(source, _FILE, "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise ProgramError(f"the program is not valid Python (line {line})") from error
    sys.modules["__main__"] = module
    try:
        with silence():
            exec(code, module.__dict__)  # noqa: S102  running an approved program is what a job is
    except BaseException as error:
        raise describe_failure(error) from error
    finally:
        if before is not None:
            sys.modules["__main__"] = before
    if room.missing():
        raise UsageError(
            f"the program ended without writing {list(room.missing())}",
            hint='write each output: room.write(frame, "name")',
        )


def run_confined(source: bytes, room: Room, *, writable: Iterable[Path], keep_tcp: bool) -> None:
    """Run ``source`` like :func:`run_program`, in a thread that writes to ``writable`` only and has no network.

    ``keep_tcp`` leaves it TCP, which a program needs to reach the Java machine that the driver started.

    The kernel enforces it, where it has Landlock, for that thread and all it starts: a library that caches, spills or
    leaves a temporary file cannot put plaintext on a disk, and none can send it anywhere.
    """
    failures: list[BaseException] = []
    directories = tuple(writable)

    def run() -> None:
        try:
            confine(directories, keep_signals=True, keep_tcp=keep_tcp)
            run_program(source, room)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is raised again below
            failures.append(error)

    with temporary_files(room.scratch()):
        thread = threading.Thread(target=run, name="program")
        thread.start()
        thread.join()
        _end_helpers()
    if failures:
        raise failures[0]


def _end_helpers() -> None:
    """End the processes that scikit-learn's job library keeps for later, and remove what they share in memory."""
    pool = sys.modules.get("joblib.externals.loky.reusable_executor")
    if pool is not None and pool._executor is not None:
        pool._executor.shutdown(wait=True, kill_workers=True)
    for shared in Path("/dev/shm").glob(f"sem.loky-{os.getpid()}-*"):  # noqa: S108  its own, by its number
        shared.unlink(missing_ok=True)


@contextmanager
def temporary_files(directory: Path) -> Iterator[None]:
    """Let temporary files of this process, and of libraries that it loads, go to ``directory``."""
    before = {name: os.environ.get(name) for name in _TEMPORARY}
    os.environ.update(dict.fromkeys(_TEMPORARY, str(directory)))
    tempfile.tempdir = str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = None
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def describe_failure(error: BaseException) -> StrongroomError:
    """Return what may be said outside about ``error``: its type and the program's line.

    What Strongroom itself said to the program goes out as it is; the same kind of error raised by the program does not,
    for the program may have put anything into it.
    """
    for ours in (error, error.__cause__):
        if isinstance(ours, StrongroomError) and _is_own(ours):
            return ours
    return describe_raise(error)


def describe_raise(error: BaseException) -> ProgramError:
    """Return what may be said outside about ``error`` where not even what Strongroom said may be quoted."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _FILE]
    where = f"line {lines[-1]} of the program" if lines else "the program"
    return ProgramError(
        f"{where} raised {_name_kind(type(error))}",
        hint="its message stays inside, since it may quote data; try the program on made-up data first",
    )


def _name_kind(kind: type[BaseException]) -> str:
    """Return an exception's name, unless the program made the kind up while it ran, perhaps from data."""
    known = getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    return kind.__name__ if known else "an exception of its own making"


def _is_own(error: StrongroomError) -> bool:
    """Return whether ``error`` was raised by a file of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _PACKAGE in Path(frames[-1].filename).parents


@contextmanager
def silence() -> Iterator[None]:
    """Send standard output and error, also of child processes started meanwhile, to nowhere."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in (*saved, nowhere):
            os.close(descriptor)
