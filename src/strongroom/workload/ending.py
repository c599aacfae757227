"""End a workload's process in order, whatever ends it, and say nothing on the way that could quote data.

A signal is served by a thread of its own, since the main thread may be inside a query that does not return. What nobody
foresaw is told as a kind of error and a line of our own code: its message stays inside (spec/3-job.md §8).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from strongroom.errors import EnvelopeError, StrongroomError
from strongroom.workload.scratch import discard_all

_PACKAGE = Path(__file__).resolve().parents[1]
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CLOSING_SECONDS = 3.0
_SIGNAL_EXIT = 128
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DefectError(StrongroomError):
    """Something that nobody foresaw; the message says where and of what kind, and quotes nothing."""


class NoSpaceError(EnvelopeError):
    """The storage or the memory file system of a workload is full or broken."""


def describe_defect(error: BaseException) -> StrongroomError:
    """Return what may be said outside about an exception that is not one of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents]
    where = f"{Path(own[-1].filename).relative_to(_PACKAGE)}:{own[-1].lineno}" if own else "outside our own code"
    if isinstance(error, OSError) and error.errno is not None:
        hint = "free some space and submit the job again" if error.errno in _FULL else "check the job's storage"
        return NoSpaceError(f"{os.strerror(error.errno).lower()} ({where})", hint=hint)
    if isinstance(error, MemoryError):
        return NoSpaceError(f"the memory of this TEE is used up ({where})", hint="give the job more memory")
    return DefectError(
        f"unexpected {type(error).__name__} ({where})",
        hint="this is a defect of Strongroom, not yours; its message stays inside, since it may quote data",
    )


def keep_quiet() -> None:
    """From now on nothing that this process or its children write to standard error reaches the host."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def end_on_signal(close: Callable[[], object], *, drain: Callable[[], bool] = lambda: False) -> None:
    """On SIGTERM, SIGINT or SIGHUP run :func:`end_now` with ``close``; call it from the main thread.

    The first SIGTERM asks ``drain`` before, which returns whether it ends the process by itself, in order and in time.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def serve() -> None:
        number = reader.recv(1)
        if number[0] == signal.SIGTERM and drain():
            number = reader.recv(1)
        end_now(close, code=_SIGNAL_EXIT + number[0])

    threading.Thread(target=serve, name="signals", daemon=True).start()
    _kept.extend((reader, writer))
    # Python's own handler runs in the main thread only, between two of its instructions; this descriptor is written
    # to at once.
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, _leave_it_to_the_thread)


def end_now(close: Callable[[], object], *, code: int) -> None:
    """Run ``close`` for three seconds at most, remove every scratch directory, and end the process with ``code``."""
    closing = threading.Thread(target=close, name="closing", daemon=True)
    closing.start()
    closing.join(_CLOSING_SECONDS)
    discard_all()
    os._exit(code)


def tell_defects(tell: Callable[[StrongroomError], object]) -> None:
    """Have exceptions that reach the top of a thread told by ``tell``, instead of printed with their messages."""

    def at_top(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        tell(describe_defect(error))

    def in_thread(said: threading.ExceptHookArgs) -> None:
        if said.exc_value is not None:
            tell(describe_defect(said.exc_value))

    sys.excepthook = at_top
    threading.excepthook = in_thread


def _leave_it_to_the_thread(_number: int, _frame: object) -> None:
    """Do nothing: the thread that reads the wake-up descriptor acts."""


_kept: list[socket.socket] = []
