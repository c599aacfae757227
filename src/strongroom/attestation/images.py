"""Read a container image's archive without running anything of it, so that what it will measure can be computed.

Every part is held to the digest that names it, from the index down to the layers (OCI image layout 1.0). Nothing is
unpacked but the files asked for, and nothing is written outside the folder given.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self, cast

from strongroom.errors import StrongroomError, UsageError

_MOST_DOCUMENT_BYTES: Final = 4 << 20
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_COMPRESSED: Final = {
    "application/vnd.oci.image.layer.v1.tar": False,
    "application/vnd.oci.image.layer.v1.tar+gzip": True,
}
_WHITEOUT: Final = ".wh."
_WHITEOUT_ALL: Final = ".wh..wh..opq"
_CHUNK: Final = 1 << 20
MOST_HEADER_BYTES: Final = 1 << 20
"""A member's extended header (a long name, pax records) is read whole; the longest path that Linux takes has 4 KiB."""
MOST_MEMBERS: Final = 1_000_000
_HEADERS: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class ImageError(StrongroomError):
    """The file is not an image that can be read, or a part of it is not what its digest says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image's identity: the digests of its manifest and of its unpacked layers, and how its containers start."""

    digest: str
    layers: tuple[str, ...]
    user: str
    entrypoint: tuple[str, ...]
    environment: Mapping[str, str]


def read_image(archive: Path, *, into: Path, wanted: Callable[[str], bool]) -> Image:
    """Return what image the archive holds, and lay those of its files that are ``wanted`` (by path) into ``into``.

    Raise ImageError for an archive of another shape, with several images, or with a part that was changed.
    """
    try:
        with tarfile.open(archive, tarinfo=_Member) as parts:
            return _read(_Parts(parts), into, wanted)
    except (KeyError, ValueError, TypeError, AttributeError, tarfile.TarError, EOFError, OSError) as error:
        raise ImageError(
            f"{archive} is not an image's archive: {type(error).__name__} {str(error)[:100]}",
            hint="name an OCI archive, such as scripts/image writes",
        ) from error


def resolve(root: Path, path: str) -> Path:
    """Return where ``path`` of an image lies below ``root``, following links as the image's own root would.

    Raise UsageError for a path that is not there.
    """
    rest, at, hops = [part for part in path.split("/") if part], "", 0
    while rest:
        part = rest.pop(0)
        at = posixpath.normpath(posixpath.join("/", at, part)).lstrip("/")
        if (root / at).is_symlink():
            hops += 1
            link = str((root / at).readlink())
            at = "" if link.startswith("/") else posixpath.dirname(at)
            rest = [*(one for one in link.split("/") if one), *rest]
        if hops > 40:  # noqa: PLR2004  as the kernel
            raise UsageError(f"{path} is a circle of links")
    if not (root / at).exists():
        raise UsageError(f"there is no {path} in {root}", hint="name the root of an image made by scripts/image")
    return root / at


class _Member(tarfile.TarInfo):
    """A member of an archive whose header is of a size that a header has."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse one block; raise ImageError for a header that would be read whole and fill the memory."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _HEADERS and found.size > MOST_HEADER_BYTES:
            raise ImageError(f"a header of {found.size} bytes, expected at most {MOST_HEADER_BYTES}")
        return found


class _Parts:
    """The files of an archive, each read once and held to its digest."""

    def __init__(self, parts: tarfile.TarFile) -> None:
        self._parts = parts
        self._members = {entry.name.removeprefix("./"): entry for entry in _count(parts) if entry.isfile()}

    def open(self, name: str) -> IO[bytes]:
        opened = self._parts.extractfile(self._members[name])
        if opened is None:
            raise KeyError(name)
        return opened

    def document(self, name: str, *, digest: str = "") -> Any:  # noqa: ANN401  JSON, which the caller looks into
        with self.open(name) as stream:
            data = stream.read(_MOST_DOCUMENT_BYTES + 1)
        if len(data) > _MOST_DOCUMENT_BYTES:
            raise ImageError(f"{name} is too long for a document of an image")
        if digest:
            _verify_digest(name, expected=digest, got=hashlib.sha256(data).hexdigest())
        return json.loads(data)

    def blob(self, descriptor: Mapping[str, Any]) -> Any:  # noqa: ANN401  JSON
        return self.document(_place(descriptor["digest"]), digest=descriptor["digest"])


def _read(parts: _Parts, into: Path, wanted: Callable[[str], bool]) -> Image:
    manifests = parts.document("index.json")["manifests"]
    if len(manifests) != 1 or manifests[0]["mediaType"] != _MANIFEST:
        raise ImageError(f"the archive holds {len(manifests)} images, or another kind of index; expected one image")
    manifest = parts.blob(manifests[0])
    config = parts.blob(manifest["config"])
    for layer, unpacked in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        with parts.open(_place(layer["digest"])) as stream:
            outer = _Hashed(stream)
            packed = cast("IO[bytes]", outer)  # it is read, and nothing else
            inner = _Hashed(gzip.GzipFile(fileobj=packed, mode="rb") if _COMPRESSED[layer["mediaType"]] else packed)
            with tarfile.open(fileobj=cast("IO[bytes]", inner), mode="r|", tarinfo=_Member) as tar:
                _lay(tar, into, wanted)
            inner.drain()
            outer.drain()
        _verify_digest("a layer", expected=layer["digest"], got=outer.hexdigest())
        _verify_digest("a layer, unpacked,", expected=unpacked, got=inner.hexdigest())
    started = config.get("config", {})
    return Image(
        digest=manifests[0]["digest"],
        layers=tuple(map(str, config["rootfs"]["diff_ids"])),
        user=str(started.get("User", "")),
        entrypoint=tuple(started.get("Entrypoint") or ()),
        environment=dict(one.split("=", 1) for one in started.get("Env") or ()),
    )


def _count(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members; raise ImageError when there are more than any image has, each of which is remembered."""
    for number, entry in enumerate(tar):
        if number >= MOST_MEMBERS:
            raise ImageError(f"an archive of more than {MOST_MEMBERS} members")
        yield entry


def _lay(tar: tarfile.TarFile, into: Path, wanted: Callable[[str], bool]) -> None:
    for entry in _count(tar):
        name = posixpath.normpath(entry.name).lstrip("/")
        if name.startswith("..") or any((into / one).is_symlink() for one in _above(name)):
            raise ImageError(f"a layer names {entry.name[:80]!r}, which leads elsewhere")
        above, _, last = name.rpartition("/")
        if last.startswith(_WHITEOUT):  # the layer takes away what those below it had
            hidden = "" if last == _WHITEOUT_ALL else last.removeprefix(_WHITEOUT)
            if hidden in (".", "..") or (not hidden and last != _WHITEOUT_ALL):
                raise ImageError(f"a layer names {entry.name[:80]!r}, which leads elsewhere")
            _remove(into / above / hidden)
            continue
        target = into / name
        if entry.isdir() or not wanted(name):
            if not entry.isdir() and (target.is_symlink() or target.exists()):
                _remove(target)
            continue
        _remove(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.issym():
            target.symlink_to(entry.linkname)
        elif entry.isfile() and (opened := tar.extractfile(entry)) is not None:
            with target.open("wb") as stream:
                shutil.copyfileobj(opened, stream, _CHUNK)
            target.chmod(entry.mode & 0o777)
        else:
            raise ImageError(f"{name} is neither a file nor a link")


def _above(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _place(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


def _verify_digest(name: str, *, expected: str, got: str) -> None:
    if expected != f"sha256:{got}":
        raise ImageError(f"{name} is not what its digest says: sha256:{got}, expected {expected[:80]}")


class _Hashed:
    """A stream that digests what is read from it."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        return data

    def drain(self) -> None:
        while self.read(_CHUNK):
            pass

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
