"""Make a job's scratch directory: private, in memory, and gone with the job.

Spark's spill encryption has no integrity and a laptop's disk is not the TEE's, so whatever a job keeps for itself
lies on a memory file system; another kind is refused. A process that was killed cannot clean up: its directory is
removed by the next one that makes its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path

from strongroom.errors import EnvelopeError

_MEMORY = Path("/dev/shm")  # noqa: S108  private directories with random names are made below it
_MEMORY_KINDS = frozenset({"tmpfs", "ramfs", "ramdisk"})
_PREFIX = "strongroom-job-"

_held: dict[Path, int] = {}
_lock = threading.Lock()


def make_scratch(parent: Path = _MEMORY) -> Path:
    """Return a new directory below ``parent``, mode 0700; raise EnvelopeError unless it lies in memory.

    It is locked for as long as this process lives, which tells it from those that dead processes left.
    """
    kind = filesystem_kind(parent)
    if kind not in _MEMORY_KINDS:
        raise EnvelopeError(
            f"scratch space at {parent} is on {kind}, and must be on a memory file system",
            hint="mount a tmpfs at /dev/shm",
        )
    remove_abandoned(parent)
    try:
        # Locked before it has the name under which others look for abandoned ones.
        draft = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
        descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        made = draft.with_name(draft.name.removeprefix("."))
        draft.rename(made)
    except OSError as error:
        raise EnvelopeError(
            f"no scratch space in {parent}: {error.strerror}", hint="free some memory there, or mount a larger tmpfs"
        ) from error
    with _lock:
        _held[made] = descriptor
    return made


def discard_scratch(directory: Path) -> None:
    """Remove a directory that :meth:`make_scratch` made; safe to call twice."""
    shutil.rmtree(directory, ignore_errors=True)
    with _lock:
        descriptor = _held.pop(directory, None)
    if descriptor is not None:
        os.close(descriptor)


def discard_all() -> None:
    """Remove every scratch directory of this process, which is about to end."""
    for directory in list(_held):
        discard_scratch(directory)


def remove_abandoned(parent: Path = _MEMORY) -> None:
    """Remove what processes of this account left behind that were killed; never what a living one holds."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_uid == os.geteuid():
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(descriptor)


def filesystem_kind(path: Path) -> str:
    """Return the type of the file system that holds ``path``, by the kernel's mount table."""
    wanted = path.resolve()
    best, kind = Path("/"), "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, type_, *_ = line.split(" ")
        mounted = Path(mount.replace("\\040", " "))
        if (wanted == mounted or mounted in wanted.parents) and len(mounted.parts) >= len(best.parts):
            best, kind = mounted, type_
    return kind


def is_memory(path: Path) -> bool:
    """Return whether ``path`` lies on a memory file system."""
    return filesystem_kind(path) in _MEMORY_KINDS and os.access(path, os.W_OK)
