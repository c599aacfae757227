"""Keep monotonic counters for simulated workloads: one small file each, never lowered, safe between processes.

A counter belongs to one measurement and one name. Real hardware would keep it out of the host's reach; here the host
could edit the file, which is one more reason why a simulated TEE protects nothing.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.digests import digest
from strongroom.errors import StrongroomError

MAX_COUNT = (1 << 63) - 1
_NAME_BYTES = 200


class CounterError(StrongroomError):
    """A monotonic counter was not asked to grow, or its file is damaged."""


class Counters:
    """The counters of every workload of one platform directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, measurement: str, name: str) -> int:
        """Return the counter's value; one that was never advanced reads 0."""
        with self._locked():
            return self._load(self._path(measurement, name))

    def advance_to(self, measurement: str, name: str, value: int) -> None:
        """Set the counter to ``value``, durably; raise CounterError unless that is more than it holds.

        Strictly more, so that of two clones that race to the same number only one succeeds.
        """
        if not 0 <= value <= MAX_COUNT:
            raise CounterError(f"a counter holds 0 to {MAX_COUNT}, got {value}")
        path = self._path(measurement, name)
        with self._locked():
            held = self._load(path)
            if value <= held:
                raise CounterError(
                    f"counter {name!r} holds {held} and cannot be set to {value}",
                    hint="the state that this number belongs to is older than, or a copy of, what was already written",
                )
            _write_durably(path, f"{value}\n".encode())

    def _path(self, measurement: str, name: str) -> Path:
        if not name or len(name.encode()) > _NAME_BYTES:
            raise CounterError(f"a counter's name has 1 to {_NAME_BYTES} bytes, got {len(name.encode())}")
        return self._directory / digest("strongroom/simulated-counter/v1", measurement.encode(), name.encode()).hex()

    def _load(self, path: Path) -> int:
        try:
            return int(path.read_text())
        except FileNotFoundError:
            return 0
        except ValueError as error:
            raise CounterError(f"{path} does not hold a number", hint="restore the platform directory") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # which also unlocks


def _write_durably(path: Path, data: bytes) -> None:
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(draft).replace(path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
