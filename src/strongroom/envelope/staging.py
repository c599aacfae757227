"""Write a dataset beside its place and move it there whole (spec/1-encrypted-dataset.md §6).

Everything is fsynced before the rename. An error, a full disk or Ctrl-C removes what was begun; a power cut leaves at
most a hidden ``.name.partial-*`` directory of ciphertext, never half a dataset under its real name.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.errors import EnvelopeError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StorageError(EnvelopeError):
    """The target cannot be written: it exists, there is no room, or there are no rights."""


@contextmanager
def staged_directory(target: Path) -> Iterator[Path]:
    """Yield a hidden sibling of ``target`` to write in; rename it to ``target`` when the block ends well."""
    target = Path(os.path.abspath(target))  # noqa: PTH100  resolve() would follow a link at the target
    if os.path.lexists(target):
        raise StorageError(f"{target} exists already", hint="a dataset is never overwritten; choose a new directory")
    staging = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    try:
        staging.mkdir()  # readable as the umask says: it is ciphertext, for others to fetch
    except OSError as error:
        raise StorageError(f"cannot write in {target.parent}: {error.strerror}", hint="create it first") from error
    try:
        yield staging
        for path in staging.iterdir():
            _sync(path)
        _sync(staging)
        staging.rename(target)
        _sync(target.parent)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise storage_error(error, target) from error
        raise


def replace_file(target: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``target`` in one step, with the rights ``mode``; what stood there before is replaced."""
    temporary = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(target.parent)
    except OSError as error:
        raise storage_error(error, target) from error


def storage_error(error: OSError, target: Path) -> StorageError:
    """Return the error to raise for a failed write to ``target``."""
    if error.errno in _FULL:
        return StorageError(
            f"no room left while writing {target}: {error.strerror}",
            hint="nothing was kept; free some space (about the size of the source) and run it again",
        )
    return StorageError(f"cannot write {target}: {error.strerror or error}", hint="nothing was kept; check the storage")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
