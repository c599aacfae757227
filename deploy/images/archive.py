"""Write container images from folders so that the same folders give the same bytes, without a daemon or a registry.

One OCI layout in a tar, which ``ctr images import``, ``podman load``, ``skopeo`` and ``docker load`` (25 and later)
read. Times, owners, order and compression are fixed; nothing of the machine that builds gets in.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, BinaryIO

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_LEVEL = 6
_SETUID = 0o6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A folder that becomes part of a layer, below ``target``.

    ``owner`` is the numeric user and group of everything in it. Left out are the paths in ``leave_out``, with all
    below them, and files of a name in ``leave_names`` wherever they are.
    """

    source: Path
    target: str = ""
    owner: int = 0
    leave_out: frozenset[str] = frozenset()
    leave_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """How containers of the image start."""

    name: str
    user: int
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A part of an image: its bytes and what they are."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        """Return the part's digest."""
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    def describe(self, **annotations: str) -> dict[str, Any]:
        """Return the descriptor by which others name it."""
        described: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}
        return {**described, "annotations": annotations} if annotations else described


def write_layer(trees: Sequence[Tree], *, epoch: int) -> tuple[Blob, str]:
    """Return one layer of all trees, and the digest of its uncompressed bytes (the diff id)."""
    packed = io.BytesIO()
    hashed = hashlib.sha256()
    # No name and no time in gzip's header: both would differ from build to build.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=_LEVEL, mtime=0) as compressed,
        tarfile.open(fileobj=_Hashing(compressed, hashed), mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        seen: set[str] = set()
        for entry, path in sorted(_entries(trees), key=lambda one: one[0].name):
            if entry.name in seen:
                continue
            seen.add(entry.name)
            entry.mtime = epoch
            if path is None:
                tar.addfile(entry)
            else:
                with path.open("rb") as content:
                    tar.addfile(entry, content)
    return Blob(media_type=_LAYER, data=packed.getvalue()), f"sha256:{hashed.hexdigest()}"


def write_image(target: Path, layers: Sequence[Sequence[Tree]], config: ImageConfig, *, epoch: int) -> str:
    """Write an image of ``layers`` to ``target`` and return its manifest's digest, by which it can be named."""
    written = [write_layer(trees, epoch=epoch) for trees in layers]
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    described = _json(
        _CONFIG,
        {
            "architecture": config.architecture,
            "os": "linux",
            "created": created,
            "config": {
                "User": f"{config.user}:{config.user}",
                "Env": [f"{name}={value}" for name, value in sorted(config.environment.items())],
                "Entrypoint": list(config.entrypoint),
                "Cmd": list(config.command),
                "Labels": dict(sorted(config.labels.items())),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [diff for _, diff in written]},
            "history": [{"created": created, "created_by": "deploy/images/build.py"} for _ in written],
        },
    )
    blobs = [layer for layer, _ in written]
    manifest = _json(
        _MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": described.describe(),
            "layers": [blob.describe() for blob in blobs],
        },
    )
    name = {"io.containerd.image.name": config.name, "org.opencontainers.image.ref.name": config.name.partition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [manifest.describe(**name)]}
    docker = [
        {
            "Config": f"blobs/sha256/{described.digest[7:]}",
            "RepoTags": [config.name],
            "Layers": [f"blobs/sha256/{blob.digest[7:]}" for blob in blobs],
        }
    ]
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": _encode(index),
        "manifest.json": _encode(docker),  # for docker load
        **{f"blobs/sha256/{blob.digest[7:]}": blob.data for blob in (*blobs, described, manifest)},
    }
    draft = target.with_name(f".{target.name}.draft")
    with draft.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mtime, entry.mode = len(data), epoch, 0o644
            tar.addfile(entry, io.BytesIO(data))
    draft.replace(target)
    return manifest.digest


def _entries(trees: Sequence[Tree]) -> Iterator[tuple[tarfile.TarInfo, Path | None]]:
    for tree in trees:
        prefix = tree.target.strip("/")
        for depth in range(1, len(prefix.split("/")) + 1 if prefix else 1):  # the folders above the target
            yield _entry("/".join(prefix.split("/")[:depth]), tarfile.DIRTYPE, mode=0o755, owner=0), None
        for path in sorted(tree.source.rglob("*")):
            relative = path.relative_to(tree.source).as_posix()
            if _is_left_out(path.relative_to(tree.source), tree):
                continue
            name = f"{prefix}/{relative}" if prefix else relative
            status = path.lstat()
            if path.is_symlink():
                entry = _entry(name, tarfile.SYMTYPE, mode=0o777, owner=tree.owner)
                entry.linkname = str(path.readlink())
                yield entry, None
            elif path.is_dir():
                yield _entry(name, tarfile.DIRTYPE, mode=0o755, owner=tree.owner), None
            elif path.is_file():
                if status.st_mode & _SETUID:
                    continue  # nothing in the image may become somebody else
                entry = _entry(name, tarfile.REGTYPE, mode=0o755 if status.st_mode & 0o100 else 0o644, owner=tree.owner)
                entry.size = status.st_size
                yield entry, path


def _is_left_out(path: PurePath, tree: Tree) -> bool:
    above = {path.as_posix(), *(one.as_posix() for one in path.parents)}
    bytecode = path.suffix in {".pyc", ".pyo"} or "__pycache__" in path.parts
    return bytecode or bool(above & tree.leave_out) or path.name in tree.leave_names


def _entry(name: str, kind: bytes, *, mode: int, owner: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    entry.uid = entry.gid = owner
    return entry


class _Hashing(io.RawIOBase):
    """Passes bytes on and digests them."""

    def __init__(self, target: BinaryIO | gzip.GzipFile, hashed: Any) -> None:  # noqa: ANN401  hashlib's own
        self._target = target
        self._hashed = hashed

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401  a buffer
        self._hashed.update(data)
        self._target.write(bytes(data))
        return len(data)


def _json(media_type: str, value: Mapping[str, Any]) -> Blob:
    return Blob(media_type=media_type, data=_encode(value))


def _encode(value: Any) -> bytes:  # noqa: ANN401  JSON
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
