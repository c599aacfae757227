"""Make a job's scratch directory: private, in memory, and gone with the job.

Spark's spill encryption has no integrity and a laptop's disk is not the TEE's, so whatever a job keeps for itself
lies on a memory file system; another kind is refused.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from strongroom.errors import EnvelopeError

_MEMORY = Path("/dev/shm")  # noqa: S108  private directories with random names are made below it
_MEMORY_KINDS = frozenset({"tmpfs", "ramfs", "ramdisk"})


def make_scratch(parent: Path = _MEMORY) -> Path:
    """Return a new directory below ``parent``, mode 0700; raise EnvelopeError unless it lies in memory."""
    kind = filesystem_kind(parent)
    if kind not in _MEMORY_KINDS:
        raise EnvelopeError(
            f"scratch space at {parent} is on {kind}, and must be on a memory file system",
            hint="mount a tmpfs at /dev/shm",
        )
    return Path(tempfile.mkdtemp(prefix="strongroom-", dir=parent))


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
