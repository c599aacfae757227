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

from strongroom.errors import EvidenceError, RefusedError, StrongroomError, UsageError
from strongroom.workload.collectives import guard_collectives
from strongroom.workload.confinement import confine
from strongroom.workload.inside import Room, enter

_FILE = "program.py"
_TEMPORARY = ("TMPDIR", "TMP", "TEMP", "JOBLIB_TEMP_FOLDER", "MPLCONFIGDIR", "XDG_CACHE_HOME")
_HINT = "its message stays inside, since it may quote data; try the program on made-up data first, where all is said"
# Of errors of ours, as they were before any program ran.
_MEANINGS: dict[type[BaseException], str] = {UsageError: "the program asked for something that cannot be"}


class ProgramError(StrongroomError):
    """The program failed; the message says where and with what kind of exception, and quotes nothing."""


def run_program(source: bytes, room: Room) -> None:
    """Run ``source`` as ``__main__`` with ``strongroom.workload.room`` set to ``room``.

    Raises ProgramError if it fails, UsageError if it leaves a declared output unwritten, and an error of the type that
    Strongroom itself raised inside it, which says what that type means.
    """
    learn_meanings()
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
    """Return what may be said outside about ``error``: type, the program's line, and of a type of ours the meaning.

    What an error of ours says is said of what the program asked for, which it may have made of data, and a program can
    raise our errors itself; so none is quoted. What goes out keeps the type, which says how the job ends.
    """
    for ours in (error, error.__cause__):
        if type(ours) in _MEANINGS and isinstance(ours, StrongroomError):
            return _say_meaning(ours, where=_find_line(error))
    return describe_raise(error)


def describe_raise(error: BaseException) -> ProgramError:
    """Return what may be said outside about ``error`` where nothing may be said of what Strongroom meant."""
    return ProgramError(f"{_find_line(error)} raised {_name_kind(type(error))}", hint=_HINT)


def learn_meanings() -> None:
    """Learn what each kind of error of ours means, before a program runs that could change it."""
    waiting: list[type[StrongroomError]] = [StrongroomError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind not in _MEANINGS and kind.__module__.partition(".")[0] == "strongroom":
            first = (kind.__doc__ or kind.__name__).partition("\n")[0]
            _MEANINGS[kind] = first[:1].lower() + first[1:].rstrip(".")


def _say_meaning(error: StrongroomError, *, where: str) -> StrongroomError:
    """Return an error of the same type that says what the type means, and nothing of what this one said."""
    meaning = _MEANINGS[type(error)]
    plain = type(error).__new__(type(error))
    StrongroomError.__init__(plain, f"{where}: {meaning} ({type(error).__name__})", hint=_HINT)
    if isinstance(plain, RefusedError):
        plain.reasons = (meaning,)
    if isinstance(plain, EvidenceError):
        plain.step = "program"
    return plain


def _find_line(error: BaseException) -> str:
    """Return which line of the program was running."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _FILE]
    return f"line {lines[-1]} of the program" if lines else "the program"


def _name_kind(kind: type[BaseException]) -> str:
    """Return an exception's name, unless the program made the kind up while it ran, perhaps from data."""
    known = getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    return kind.__name__ if known else "an exception of its own making"


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
