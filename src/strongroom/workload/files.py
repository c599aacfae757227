"""Give a program the files of an input, and take in the files of an output, such as a model's (spec/3-job.md §9).

An input's files are decrypted as they are read; what is unpacked, or made to be saved, lies in the job's scratch, in
memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from strongroom.envelope.files import Opener, SealedFiles, verify_name
from strongroom.errors import UsageError

_BLOCK = 1 << 20


class InputFiles(Mapping[str, io.BufferedReader]):
    """The files of an input, by their original names; each is opened for reading and authenticated as it is read."""

    def __init__(self, sealed: SealedFiles, *, scratch: Callable[[], Path]) -> None:
        self._sealed = sealed
        self._scratch = scratch
        self._unpacked: Path | None = None

    def __getitem__(self, name: str) -> io.BufferedReader:
        return io.BufferedReader(self._sealed.open(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._sealed)

    def __len__(self) -> int:
        return len(self._sealed)

    def unpack(self) -> Path:
        """Return a directory in the job's scratch with the files as they were, for libraries that want a path."""
        if self._unpacked is None:
            self._unpacked = unpack(self._sealed, self._scratch())
        return self._unpacked

    def __repr__(self) -> str:
        return f"InputFiles({sorted(self)[:5]}, files={len(self)})"


def unpack(sealed: SealedFiles, directory: Path) -> Path:
    """Write every file of ``sealed`` below the existing ``directory`` and return it; no name leads out of it."""
    for name in sealed:
        target = directory / verify_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as stream, sealed.open(name) as reader:
            for piece in reader.segments():
                stream.write(piece)
    return directory


class NoFilesError(UsageError):
    """The program gave something to save that is no file: nothing at a path, a link, or a Python object."""


def collect_files(given: object) -> dict[str, Opener]:
    """Return how to open what a program saves: a directory or file by its path, or a mapping from names to bytes."""
    if isinstance(given, str | Path):
        root = Path(given)
        if root.is_file():
            return {verify_name(root.name): _path_opener(root)}
        if not root.is_dir():
            raise NoFilesError(
                "there is nothing to save at this path", hint="save below room.scratch(), then give it here"
            )
        found = {}
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise NoFilesError(f"{path.name!r} is a link or a special file", hint="save plain files")
            if path.is_file() and not _is_checksum(path):
                found[verify_name(path.relative_to(root).as_posix())] = _path_opener(path)
        return found
    if isinstance(given, Mapping) and all(isinstance(one, bytes | bytearray | str) for one in given.values()):
        encoded = {name: one.encode() if isinstance(one, str) else bytes(one) for name, one in given.items()}
        return {verify_name(str(name)): bytes_opener(data) for name, data in encoded.items()}
    raise NoFilesError(
        f"cannot save a {type(given).__name__}",
        hint='give a directory below room.scratch(), or {"model.json": text}; a Python object would be a pickle',
    )


def describe(files: Mapping[str, Opener]) -> dict[str, dict[str, object]]:
    """Return size and SHA-256 of each file, by name."""
    described: dict[str, dict[str, object]] = {}
    for name, opened in files.items():
        digest, size = hashlib.sha256(), 0
        with opened() as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                size += len(block)
        described[name] = {"bytes": size, "sha256": digest.hexdigest()}
    return described


def _is_checksum(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".crc"


def _path_opener(path: Path) -> Opener:
    return lambda: path.open("rb", buffering=0)


def bytes_opener(data: bytes) -> Opener:
    """Return how to open ``data`` as a file."""
    return lambda: io.BytesIO(data)
