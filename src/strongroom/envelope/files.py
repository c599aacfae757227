"""Turn a directory of any files into an encrypted dataset and open it again (spec/1-encrypted-dataset.md §6).

File names are data too (a scan may be called after its patient): they are kept in an encrypted index, and the storage
sees numbered files only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from strongroom.envelope.container import (
    SEGMENT_BYTES,
    SealedReader,
    SealedWriter,
    open_file,
    plain_size,
    seal_file,
)
from strongroom.envelope.custody import Custody
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.keys import DataKey, DatasetKeys
from strongroom.envelope.manifest import (
    FileEntry,
    Manifest,
    custody_context,
    sign_manifest,
    verify_files,
    write_manifest,
)
from strongroom.envelope.names import parse_owned_dataset
from strongroom.envelope.progress import Progress, silent
from strongroom.envelope.staging import staged_directory
from strongroom.errors import EnvelopeError
from strongroom.statements import SigningKey, canonical_json

INDEX_FILE = "index.sealed"
_MAX_INDEX_BYTES = 64 << 20
_MAX_NAME_BYTES = 1024

Opener = Callable[[], IO[bytes]]


class FilesError(EnvelopeError):
    """A file that is asked for is not there, or a directory holds what cannot be encrypted."""


class SealedFiles(Mapping[str, int]):
    """The files of an opened dataset: original name to size in bytes; :meth:`open` reads one."""

    def __init__(self, directory: Path, keys: DatasetKeys, index: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        self._directory = directory
        self._keys = keys
        self._index = dict(index)
        self._sizes = dict(sizes)

    def open(self, name: str) -> SealedReader:
        """Return a reader of the file that was called ``name``; raise FilesError if there is none."""
        try:
            stored = self._index[name]
        except KeyError:
            raise FilesError(
                f"the dataset has no file {name[:200]!r}", hint=f"it has {len(self._index)}: {sorted(self._index)[:5]}"
            ) from None
        reader = open_file(self._directory / stored, self._keys, name=stored)
        if reader.size != self._sizes[name]:
            reader.close()
            raise TamperedDataError(f"{stored} holds {reader.size} bytes, the index says {self._sizes[name]}")
        return reader

    def __getitem__(self, name: str) -> int:
        return self._sizes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"SealedFiles(dataset={self._keys.dataset!r}, files={len(self)})"


def encrypt_files(
    source: Path,
    target: Path,
    *,
    dataset: str,
    version: int,
    owner: SigningKey,
    custody: Custody,
    segment_size: int = SEGMENT_BYTES,
    progress: Progress | None = None,
    created: datetime | None = None,
) -> Manifest:
    """Encrypt every file under the directory ``source`` into the new directory ``target``.

    ``segment_size`` is 1 MiB, or 64 KiB where small random reads dominate. One call to ``custody`` in all. Symbolic
    links and special files are refused rather than followed. Raises EnvelopeError, leaving nothing at ``target``.
    """
    originals = _collect(Path(source))
    dek = DataKey.generate()
    keys = DatasetKeys.for_files(dek, dataset=parse_owned_dataset(dataset), version=version)
    try:
        wrapped = custody.wrap(dek, context=custody_context(dataset, version))
        with staged_directory(target) as staging:
            entries = _seal_all(
                {name: _opener(path) for name, path in originals.items()},
                staging,
                keys,
                segment_size=segment_size,
                total=sum(path.stat().st_size for path in originals.values()),
                progress=progress or silent,
            )
            manifest = sign_manifest(
                dataset=dataset,
                version=version,
                kind="files",
                schema=(),
                files=entries,
                custody=custody.uri,
                wrapped_key=wrapped,
                created=created or datetime.now(UTC),
                owner=owner,
            )
            write_manifest(staging, manifest)
        return manifest
    finally:
        dek.wipe()
        keys.wipe()


def write_files(
    sources: Mapping[str, Opener],
    target: Path,
    keys: DatasetKeys,
    *,
    segment_size: int = SEGMENT_BYTES,
) -> tuple[FileEntry, ...]:
    """Encrypt what ``sources`` open, by name, into the new directory ``target`` and return the manifest's entries.

    For the files that a job makes: nobody wraps their key. Raises FilesError for a name that cannot be unpacked again,
    leaving nothing at ``target``.
    """
    if not sources:
        raise FilesError("an output of files has at least one file")
    for name in sources:
        verify_name(name)
    with staged_directory(target) as staging:
        return tuple(_seal_all(sources, staging, keys, segment_size=segment_size))


def verify_name(name: str) -> str:
    """Return ``name`` if it is a relative path that stays below the directory it is unpacked in; raise FilesError.

    Whoever unpacks files that others encrypted asks this too: their names are as hostile as their content.
    """
    parts = name.split("/")
    if len(name.encode(errors="replace")) > _MAX_NAME_BYTES or not name.isprintable() or "\\" in name:
        raise FilesError(f"{name[:80]!r} cannot name a file", hint="at most 1024 printable characters")
    if any(part in {"", ".", ".."} for part in parts):
        raise FilesError(f"{name[:80]!r} is not a path below a directory", hint="write it like model/weights.json")
    return name


def open_files(directory: Path, keys: DatasetKeys, *, manifest: Manifest) -> SealedFiles:
    """Return the files in ``directory``, after checking signature, version, exact file set, sizes and the index.

    Each file is then authenticated segment by segment as it is read.
    """
    directory = Path(directory)
    verify_files(directory, manifest, kind="files", dataset=keys.dataset, version=keys.version)
    signed = {entry.path for entry in manifest.files}
    if INDEX_FILE not in signed:
        raise TamperedDataError("the dataset has no index of its files")
    with open_file(directory / INDEX_FILE, keys, name=INDEX_FILE) as reader:
        if reader.size > _MAX_INDEX_BYTES:
            raise TamperedDataError(f"the index of files has {reader.size} bytes, at most {_MAX_INDEX_BYTES} are read")
        text = bytearray(reader.size)
        reader.readinto(text)
    try:
        rows = [(str(row["name"]), str(row["path"]), int(row["size"])) for row in json.loads(text)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TamperedDataError("the index of files is malformed", hint="ask the owner to encrypt again") from error
    index = {name: stored for name, stored, _ in rows}
    if len(index) != len(rows) or set(index.values()) != signed - {INDEX_FILE} or len(rows) != len(signed) - 1:
        raise TamperedDataError("the index of files and the manifest disagree")
    return SealedFiles(directory, keys, index, {name: size for name, _, size in rows})


def _collect(source: Path) -> dict[str, Path]:
    """Return every regular file under ``source`` by its relative name, in order."""
    if not source.is_dir():
        raise FilesError(f"{source} is not a directory", hint="name the directory whose files are to be encrypted")
    found: dict[str, Path] = {}
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise FilesError(
                f"{name!r} is a link or a special file", hint="replace it by the file itself, or remove it"
            )
        if path.is_file():
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise FilesError(f"the name {name!r} is not UTF-8", hint="rename the file") from error
            found[name] = path
    if not found:
        raise FilesError(f"{source} holds no file")
    return found


def _opener(path: Path) -> Opener:
    return lambda: path.open("rb", buffering=0)


def _seal_all(
    originals: Mapping[str, Opener],
    staging: Path,
    keys: DatasetKeys,
    *,
    segment_size: int,
    total: int = 0,
    progress: Progress = silent,
) -> list[FileEntry]:
    """Write every container and the index of names into ``staging``, and return their entries."""
    entries: list[FileEntry] = []
    rows: list[dict[str, str | int]] = []
    done = 0
    for number, (name, opened) in enumerate(originals.items()):
        stored = f"file-{number:06d}.sealed"
        with opened() as source:
            entries.append(seal_file(source, staging / stored, keys, name=stored, segment_size=segment_size))
        size = plain_size(entries[-1].size, segment_size=segment_size)
        rows.append({"name": name, "path": stored, "size": size})
        done += size
        progress(done, total)
    with SealedWriter(staging / INDEX_FILE, keys, name=INDEX_FILE) as writer:
        writer.write(canonical_json(rows))
        entries.append(writer.finish())
    return entries
