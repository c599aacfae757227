"""Run the analyst's program in the driver, with the room in reach and no way to talk to the host.

Whatever the program prints goes nowhere: standard output and error of a TEE belong to the host. When it fails, only the
exception's type and the program's line leave the TEE, for a message may quote data (spec/3-job.md §8).
"""

from __future__ import annotations

import os
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.errors import StrongroomError, UsageError
from strongroom.workload.inside import Room, enter

_FILE = "program.py"
_PACKAGE = Path(__file__).resolve().parents[1]


class ProgramError(StrongroomError):
    """The program failed; the message says where and with what kind of exception, and quotes nothing."""


def run_program(source: bytes, room: Room) -> None:
    """Run ``source`` as ``__main__`` with ``strongroom.workload.room`` set to ``room``.

    Raises ProgramError if it fails, UsageError if it leaves a declared output unwritten, and whatever Strongroom itself
    raised inside it.
    """
    enter(room)
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


def describe_failure(error: BaseException) -> StrongroomError:
    """Return what may be said outside about ``error``: its type and the program's line.

    What Strongroom itself said to the program goes out as it is; the same kind of error raised by the program does not,
    for the program may have put anything into it.
    """
    for ours in (error, error.__cause__):
        if isinstance(ours, StrongroomError) and _is_own(ours):
            return ours
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == _FILE]
    where = f"line {lines[-1]} of the program" if lines else "the program"
    return ProgramError(
        f"{where} raised {type(error).__name__}",
        hint="its message stays inside, since it may quote data; try the program on made-up data first",
    )


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
