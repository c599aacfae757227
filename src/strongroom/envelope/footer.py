"""Take and check the digest of an encrypted Parquet footer (spec/1-encrypted-dataset.md §5.2).

The last bytes of such a file are its encrypted footer, its length (u32, little endian) and the magic ``PARE``. The
footer names the wrapped key of every column chunk, and those keys are fresh per file: its digest pins the whole file.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from strongroom.digests import to_text
from strongroom.errors import EnvelopeError

if TYPE_CHECKING:
    from strongroom.envelope.manifest import FileEntry

MAGIC = b"PARE"
_TRAILER = 8
_READER_TAIL = 64 << 10  # how much Parquet readers fetch from the end at once


class TamperedDataError(EnvelopeError):
    """Stored data is not what its owner signed."""


class EncryptedSink(io.RawIOBase):
    """A new file that takes the digests of what is written to it, and accepts nothing but encrypted Parquet."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._whole = hashlib.sha256()
        self._footer: bytearray | None = None
        self.size = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        """Write all of ``data``; refuse a file that does not begin as an encrypted one."""
        if self.size == 0 and bytes(data[:4]) != MAGIC:
            raise EnvelopeError(f"{self._path} would not be encrypted: it begins with {bytes(data[:4])!r}")
        view = memoryview(data).cast("B")
        self._whole.update(view)
        if self._footer is not None:
            self._footer += view
        written = 0
        while written < len(view):
            written += self._file.write(view[written:]) or 0
        self.size += written
        return written

    def begin_footer(self) -> None:
        """Note that everything from here on is what the writer's closing writes."""
        self._footer = bytearray()

    @property
    def sha256(self) -> str:
        """Return the digest of the whole file."""
        return to_text(self._whole.digest())

    @property
    def footer_digest(self) -> str:
        """Return the digest of the encrypted footer, its length and the magic."""
        return footer_digest(bytes(self._footer or b""))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self


class Footer(io.RawIOBase):
    """The verified end of a file, in memory, for a Parquet reader that wants only the footer."""

    def __init__(self, tail: bytes, size: int) -> None:
        super().__init__()
        self._tail = tail
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the file this is the end of."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move as in the whole file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Return bytes of the end; anything before it is not here."""
        start = self._position - (self._size - len(self._tail))
        if start < 0:
            raise OSError("a reader of the footer asked for data pages")
        end = len(self._tail) if size < 0 else start + size
        data = self._tail[start:end]
        self._position += len(data)
        return data


def footer_digest(tail: bytes) -> str:
    """Return the digest of the encrypted footer at the end of ``tail``; raise TamperedDataError if there is none."""
    length = int.from_bytes(tail[-_TRAILER:-4], "little")
    if tail[-4:] != MAGIC or not 0 < length <= len(tail) - _TRAILER:
        raise TamperedDataError("a file does not end in an encrypted Parquet footer")
    return to_text(hashlib.sha256(tail[-_TRAILER - length :]).digest())


def read_footer(path: Path, entry: FileEntry) -> Footer:
    """Return the footer of ``path`` after comparing size and digest with ``entry``; read no more than it needs."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise TamperedDataError(f"cannot open {path}: {error.strerror}", hint="fetch the dataset again") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            raise TamperedDataError(
                f"{path.name} has {status.st_size} bytes, the manifest says {entry.size}",
                hint="it was cut, extended or replaced; fetch the dataset again",
            )
        tail = os.pread(descriptor, _READER_TAIL, max(0, entry.size - _READER_TAIL))
        length = int.from_bytes(tail[-_TRAILER:-4], "little") + _TRAILER
        if len(tail) < length <= entry.size:
            tail = os.pread(descriptor, length, entry.size - length)
        if footer_digest(tail) != entry.footer_digest:
            raise TamperedDataError(
                f"{path.name} is not the file the owner signed: its footer differs",
                hint="it was changed, or swapped for another file; fetch the dataset again",
            )
        return Footer(tail, entry.size)
    except OSError as error:
        raise TamperedDataError(f"cannot read {path}: {error.strerror}", hint="fetch the dataset again") from error
    finally:
        os.close(descriptor)
