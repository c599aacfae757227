"""Encrypt files of any kind in segments, readable at any place (spec/1-encrypted-dataset.md §6).

AES-256-GCM over 1 MiB segments, a key per file by HKDF, nonces that say which segment this is and whether it is the
last: cutting, reordering, swapping and extending all fail to authenticate. Buffers are aligned and reused; no payload
ever becomes ``bytes`` on the way, and no plaintext reaches a disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.digests import to_text
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.keys import DatasetKeys, derive_file_key, reveal
from strongroom.envelope.manifest import FileEntry
from strongroom.envelope.names import files_key_id
from strongroom.errors import EnvelopeError

MAGIC = b"STRONGRM"
HEADER_BYTES = 64
SEGMENT_BYTES = 1 << 20
SMALL_SEGMENT_BYTES = 64 << 10
SEGMENT_SIZES = (SMALL_SEGMENT_BYTES, SEGMENT_BYTES)
_TAG = 16
_SALT = 32
_PREFIX = 7
_MAX_SEGMENTS = 1 << 32
_VERSION, _AES_256_GCM = 1, 1
_ZEROS = memoryview(bytes(64 << 10))
_SPARE: deque[memoryview] = deque(maxlen=8)  # buffers between one reader and the next, 1 MiB each at most


class ContainerError(EnvelopeError):
    """A file is not a segmented container, or is used in a way it cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first 64 bytes of a container; all of them are bound into the file's key.

    Offsets: magic 0, version 8, cipher 9, zero 10, segment size (u32 little endian) 12, salt 16, nonce prefix 48,
    zero 55.
    """

    segment_size: int
    salt: bytes
    prefix: bytes

    @classmethod
    def generate(cls, *, segment_size: int) -> Self:
        """Return a header with fresh salt and nonce prefix."""
        return cls(segment_size=segment_size, salt=os.urandom(_SALT), prefix=os.urandom(_PREFIX))

    def encode(self) -> bytes:
        """Return the 64 bytes."""
        fixed = MAGIC + bytes([_VERSION, _AES_256_GCM, 0, 0]) + self.segment_size.to_bytes(4, "little")
        return (fixed + self.salt + self.prefix).ljust(HEADER_BYTES, b"\0")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Return the header that ``data`` is; raise ContainerError for anything :meth:`encode` cannot have written."""
        if len(data) != HEADER_BYTES or not data.startswith(MAGIC):
            raise ContainerError("not a strongroom container", hint="it was damaged, or is another kind of file")
        size = int.from_bytes(data[12:16], "little")
        if size not in SEGMENT_SIZES:
            raise ContainerError(f"a container's segments have {SEGMENT_SIZES} bytes, got {size}")
        header = cls(segment_size=size, salt=data[16:48], prefix=data[48:55])
        if header.encode() != data:
            raise ContainerError("a container's header has an unknown version or cipher, or is damaged")
        return header

    def nonce(self, index: int, *, last: bool) -> bytes:
        """Return the nonce of segment ``index``: prefix, counter (u32 big endian), last flag."""
        return self.prefix + index.to_bytes(4, "big") + bytes([last])


def plain_size(size: int, *, segment_size: int) -> int:
    """Return how many plaintext bytes a container of ``size`` bytes holds; raise TamperedDataError if none can."""
    step = segment_size + _TAG
    count = -(-(size - HEADER_BYTES) // step)
    rest = size - HEADER_BYTES - (count - 1) * step
    if not 1 <= count <= _MAX_SEGMENTS or rest < _TAG or (rest == _TAG and count > 1):
        raise TamperedDataError(f"a container cannot have {size} bytes", hint="it was cut or extended")
    return size - HEADER_BYTES - count * _TAG


class SealedWriter(io.RawIOBase):
    """Encrypts what is written to a new file; only leaving the ``with`` block without an error makes it readable."""

    def __init__(self, path: Path, keys: DatasetKeys, *, name: str, segment_size: int = SEGMENT_BYTES) -> None:
        super().__init__()
        if segment_size not in SEGMENT_SIZES:
            raise ContainerError(f"segments have {SEGMENT_SIZES} bytes, got {segment_size}")
        self._header = Header.generate(segment_size=segment_size)
        self._cipher = _cipher(keys, name, self._header.encode())
        self._name = name
        self._plain = _aligned(segment_size)
        self._sealed = _aligned(segment_size + _TAG)
        self._filled = 0
        self._index = 0
        self._digest = hashlib.sha256()
        self._path = path
        self._finished = False
        self.size = 0
        self._file = path.open("xb", buffering=0)
        self._put(memoryview(self._header.encode()))

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        """Take all of ``data``; a full segment is encrypted once more bytes follow it."""
        if self._finished:
            raise ContainerError(f"{self._path.name} is finished")
        view = memoryview(data).cast("B")
        segment, start = self._header.segment_size, 0
        while start < len(view):
            if self._filled == segment:
                self._seal(self._plain, last=False)
                self._filled = 0
            if self._filled == 0 and len(view) - start > segment:
                self._seal(view[start : start + segment], last=False)  # straight from the caller's buffer
                start += segment
                continue
            count = min(segment - self._filled, len(view) - start)
            self._plain[self._filled : self._filled + count] = view[start : start + count]
            self._filled += count
            start += count
        return len(view)

    def finish(self) -> FileEntry:
        """Seal the last segment and return the manifest entry; without this nobody can read the file."""
        if not self._finished:
            self._seal(self._plain[: self._filled], last=True)
            self._finished = True
        return FileEntry(path=self._name, size=self.size, sha256=to_text(self._digest.digest()))

    def close(self) -> None:
        """Close the file; if it was not finished, remove it."""
        if not self.closed:
            self._file.close()
            if not self._finished:
                self._path.unlink(missing_ok=True)
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.close()

    def _seal(self, plain: memoryview, *, last: bool) -> None:
        if self._index >= _MAX_SEGMENTS:
            raise ContainerError("a container has at most 2^32 segments", hint="split the file")
        sealed = self._sealed[: len(plain) + _TAG]
        self._cipher.encrypt_into(self._header.nonce(self._index, last=last), plain, None, sealed)
        self._index += 1
        self._put(sealed)

    def _put(self, view: memoryview) -> None:
        self._digest.update(view)
        written = 0
        while written < len(view):
            written += self._file.write(view[written:]) or 0
        self.size += len(view)


class SealedReader(io.RawIOBase):
    """Reads a container at any position; every byte it gives was authenticated.

    A raw file object (wrap it in ``io.BufferedReader`` for ``readline``); :meth:`segments` is the fastest way through.
    Not for several threads at once.
    """

    def __init__(self, path: Path, keys: DatasetKeys, *, name: str) -> None:
        super().__init__()
        self._name = name
        self._position = 0
        self._held = -1
        self._given_out = False
        self._sealed = self._plain = memoryview(b"")
        self._descriptor, size = _open_regular(path)
        try:
            header = os.pread(self._descriptor, HEADER_BYTES, 0)
            self._header = Header.parse(header)
            segment = self._header.segment_size
            self.size = plain_size(size, segment_size=segment)
            self._cipher = _cipher(keys, name, header)
            self._last = max(0, -(-self.size // segment) - 1)
            self._sealed = _borrow(min(segment, self.size) + _TAG)
            self._plain = _borrow(max(1, min(segment, self.size)))
            self._load(self._last)  # proves that this is where the file ends, before anybody trusts its size
        except BaseException:
            self.close()
            raise

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the plaintext."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move in the plaintext; like any file, beyond its end is allowed and reads nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill ``buffer`` from the position and return how many bytes were read, fewer only at the end."""
        if self.closed:
            raise ValueError(f"{self._name} is closed")
        view = memoryview(buffer).cast("B")
        segment, done = self._header.segment_size, 0
        wanted = min(len(view), max(0, self.size - self._position))
        while done < wanted:
            index, offset = divmod(self._position, segment)
            length = self._length(index)
            if offset == 0 and wanted - done >= length and index != self._held:
                self._decrypt(index, view[done : done + length])  # straight into the caller's buffer
                count = length
            else:
                if index != self._held:
                    self._load(index)
                count = min(length - offset, wanted - done)
                view[done : done + count] = self._plain[offset : offset + count]
            done += count
            self._position += count
        return done

    def readall(self) -> bytes:
        """Return everything from the position to the end, decrypted at once and not in Python's steps of 8 KiB."""
        if (
            self._last == 0 and self._held == 0 and not self.closed
        ):  # a small file, which was decrypted as it was opened
            start, self._position = self._position, max(self._position, self.size)
            return bytes(self._plain[start : self.size])
        rest = bytearray(max(0, self.size - self._position))
        self.readinto(rest)
        return bytes(rest)

    def segments(self) -> Iterator[memoryview]:
        """Yield the whole plaintext in one reused buffer: a piece is valid until the next is asked for."""
        self._given_out = True
        for index in range(self._last + 1):
            self._load(index)
            yield self._plain[: self._length(index)].toreadonly()

    def close(self) -> None:
        """Close the file and overwrite the last plaintext held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._held = -1
            _wipe(self._plain)
            _give_back(self._sealed)
            if not self._given_out:  # to somebody who may still look at it
                _give_back(self._plain)
        super().close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open container cannot be pickled or copied")

    def _length(self, index: int) -> int:
        return min(self._header.segment_size, self.size - index * self._header.segment_size)

    def _load(self, index: int) -> None:
        self._held = -1
        self._decrypt(index, self._plain[: self._length(index)])
        self._held = index

    def _decrypt(self, index: int, into: memoryview) -> None:
        if self._descriptor < 0:
            raise ContainerError(f"{self._name} is closed")
        sealed = self._sealed[: len(into) + _TAG]
        start = HEADER_BYTES + index * (self._header.segment_size + _TAG)
        if _read_at(self._descriptor, sealed, start) != len(sealed):
            raise TamperedDataError(f"{self._name} was cut while it was read", hint="fetch the dataset again")
        try:
            nonce = self._header.nonce(index, last=index == self._last)
            self._cipher.decrypt_into(nonce, sealed, None, into)
        except InvalidTag as error:
            raise TamperedDataError(
                f"segment {index} of {self._name} does not authenticate",
                hint="the file was changed, cut, extended or swapped, or the key is of another dataset or version",
            ) from error


def seal_file(
    source: Path | IO[bytes], target: Path, keys: DatasetKeys, *, name: str, segment_size: int = SEGMENT_BYTES
) -> FileEntry:
    """Encrypt ``source`` to the new file ``target`` and return its manifest entry, whose path is ``name``.

    ``name`` is bound into the file's key, so a file renamed or swapped does not open. Memory: two segments.
    """
    if isinstance(source, Path):
        with source.open("rb", buffering=0) as stream:
            return seal_file(stream, target, keys, name=name, segment_size=segment_size)
    block = _aligned(segment_size)
    with SealedWriter(target, keys, name=name, segment_size=segment_size) as writer:
        while count := source.readinto(block):  # type: ignore[attr-defined]  # every binary file has it
            writer.write(block[:count])
        return writer.finish()


def open_file(path: Path, keys: DatasetKeys, *, name: str) -> SealedReader:
    """Return a reader of the container at ``path``, sealed as ``name``; raise TamperedDataError if it was not."""
    return SealedReader(path, keys, name=name)


def _cipher(keys: DatasetKeys, name: str, header: bytes) -> AESGCM:
    files_key = keys.key(files_key_id(keys.dataset, keys.version))
    key = derive_file_key(files_key, dataset=keys.dataset, version=keys.version, path=name, header=header)
    try:
        return AESGCM(reveal(key))
    finally:
        key.wipe()


def _aligned(size: int) -> memoryview:
    """Return a buffer at a page boundary: a read into one that is misaligned by 16 bytes takes five times as long.

    Private: after a fork, parent and child must not decrypt into the same memory.
    """
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[:size]


def _borrow(size: int) -> memoryview:
    """Return an aligned buffer of ``size`` bytes, of those given back if one is large enough.

    Memory that is new has to be made by the kernel page by page, which takes as long as decrypting a small file.
    """
    with contextlib.suppress(IndexError):  # and no lock: each of the two calls is one step of the interpreter's
        if len(spare := _SPARE.pop()) >= size:
            return spare[:size]
    return _aligned(size)


def _give_back(buffer: memoryview) -> None:
    """Let another reader have ``buffer``, which must hold no plaintext and which nobody may use any more."""
    if buffer.obj:
        _SPARE.append(memoryview(buffer.obj))


def _wipe(buffer: memoryview) -> None:
    for start in range(0, len(buffer), len(_ZEROS)):
        buffer[start : start + len(_ZEROS)] = _ZEROS[: len(buffer) - start]


def _read_at(descriptor: int, into: memoryview, start: int) -> int:
    done = 0
    while done < len(into):
        count = os.preadv(descriptor, [into[done:]], start + done)
        if count == 0:
            break
        done += count
    return done


def _open_regular(path: Path) -> tuple[int, int]:
    """Return a descriptor of the regular file at ``path``, and its size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ContainerError(f"cannot open {path}: {error.strerror}", hint="check the path") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise ContainerError(f"{path} is not a regular file")
    return descriptor, found.st_size
