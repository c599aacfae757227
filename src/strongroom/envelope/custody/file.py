"""Keep a master key in a file, under a password (spec/1-encrypted-dataset.md §8.1).

Argon2id (RFC 9106) turns the password into a key; AES-256-GCM seals the master key with every parameter as associated
data. The master key is never written otherwise, and the file is readable by its owner alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import quote, unquote, urlsplit

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.digests import frame
from strongroom.envelope.custody.failure import CustodyError, WrongPasswordError
from strongroom.envelope.keys import DataKey, reveal
from strongroom.envelope.staging import replace_file
from strongroom.envelope.wrapping import UnwrapError, unwrap_key, wrap_key
from strongroom.errors import UsageError
from strongroom.statements import canonical_json

MIN_PASSWORD_BYTES = 8
_FORMAT = "strongroom/master-key"
_FIELDS = {"format", "version", "kdf", "cipher", "nonce", "sealed"}
_KDF_FIELDS = {"name", "memory_kib", "passes", "lanes", "salt"}
_MEMORY_KIB, _PASSES, _LANES = 65_536, 3, 4  # RFC 9106 §4, second recommended option
_LIMITS = {"memory_kib": (19_456, 2_097_152), "passes": (1, 64), "lanes": (1, 64)}  # what a hostile file may ask of us
_MAX_FILE_BYTES = 16_384
_PREFIX = "file:v1:"


class FileCustody:
    """A master key unlocked from its file, held in memory."""

    __slots__ = ("_master", "uri")

    def __init__(self, uri: str, master: DataKey) -> None:
        self.uri = uri
        self._master = master

    @classmethod
    def create(cls, uri: str, *, password: Callable[[], bytes]) -> Self:
        """Make a new master key under ``password()``, write its file (mode 0600) and return its custody."""
        path = _path(uri)
        if os.path.lexists(path):
            raise CustodyError(f"{path} exists already", hint="a master key is never overwritten; choose another name")
        if not path.parent.is_dir():
            raise CustodyError(f"there is no directory {path.parent}", hint="create it first")
        master = DataKey.generate()
        _write(path, master, password())
        return cls(_canonical(path), master)

    @classmethod
    def open(cls, uri: str, *, password: Callable[[], bytes]) -> Self:
        """Return the custody of an existing file; raise WrongPasswordError if ``password()`` does not open it."""
        path = _path(uri)
        document = _read(path)
        kdf = document["kdf"]
        header = {name: value for name, value in document.items() if name != "sealed"}
        opening = AESGCM(_derive(password(), kdf))
        try:
            master = DataKey(opening.decrypt(_bytes(document, "nonce"), _bytes(document, "sealed"), _aad(header)))
        except InvalidTag as error:
            raise WrongPasswordError(
                f"the password does not open {path}", hint="try again; if it is surely right, the file was changed"
            ) from error
        return cls(_canonical(path), master)

    def change_password(self, *, password: Callable[[], bytes]) -> None:
        """Seal the same master key under ``password()``, replacing the file in one step."""
        _write(_path(self.uri), self._master, password())

    def wrap(self, key: DataKey, *, context: bytes) -> str:
        """Return ``key`` wrapped under the master key and bound to ``context``."""
        return _PREFIX + wrap_key(self._master, reveal(key), context=_context(context))

    def unwrap(self, wrapped: str, *, context: bytes) -> DataKey:
        """Return the key wrapped with the same ``context``; raise CustodyError otherwise."""
        if not wrapped.startswith(_PREFIX):
            raise CustodyError(
                f"a key wrapped by a file starts with {_PREFIX}, got {wrapped[:12]!r}",
                hint="open the custody that the manifest names",
            )
        try:
            return DataKey(unwrap_key(self._master, wrapped.removeprefix(_PREFIX), context=_context(context)))
        except UnwrapError as error:
            raise CustodyError(
                f"the master key at {self.uri} does not open this data key",
                hint="it was wrapped by another master key, for another dataset or version, or was changed",
            ) from error

    def __repr__(self) -> str:
        return f"FileCustody(uri={self.uri!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("custody cannot be pickled or copied")


def _path(uri: str) -> Path:
    parts = urlsplit(uri)
    path = Path(unquote(parts.path))
    if parts.scheme != "file" or parts.netloc or parts.query or parts.fragment or not path.is_absolute():
        raise CustodyError(f"not the address of a key file: {uri[:200]!r}", hint="write file:/absolute/path/master.key")
    return path


def _canonical(path: Path) -> str:
    return "file:" + quote(str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CustodyError(f"{path} is not a regular file")
            if status.st_mode & 0o077:
                raise CustodyError(
                    f"{path} is readable by others (mode {stat.S_IMODE(status.st_mode):04o}), expected 0600",
                    hint=f"run: chmod 600 {path}",
                )
            text = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CustodyError(f"cannot read {path}: {error.strerror}", hint="check the path of the master key") from error
    return _parse(text, path)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text) if len(text) <= _MAX_FILE_BYTES else None
    except (ValueError, RecursionError):
        document = None
    well_formed = isinstance(document, dict) and set(document) == _FIELDS and document["format"] == _FORMAT
    if not well_formed or not isinstance(document, dict):
        raise CustodyError(f"{path} is not a strongroom master key file", hint="it was damaged, or is another file")
    kdf = document["kdf"]
    if document["version"] != 1 or document["cipher"] != "AES-256-GCM":
        raise CustodyError(f"{path} has an unknown version or cipher", hint="it was written by a newer strongroom")
    if not isinstance(kdf, dict) or set(kdf) != _KDF_FIELDS or kdf["name"] != "argon2id":
        raise CustodyError(f"{path} has an unknown key derivation, expected argon2id")
    for name, (low, high) in _LIMITS.items():
        if type(kdf[name]) is not int or not low <= kdf[name] <= high:
            raise CustodyError(f"{path}: argon2id {name} is {str(kdf[name])[:20]}, expected {low} to {high}")
    sizes = {"salt": len(_bytes(kdf, "salt")), "nonce": len(_bytes(document, "nonce"))}
    if sizes != {"salt": 16, "nonce": 12} or len(_bytes(document, "sealed")) != 48:  # noqa: PLR2004  32 key, 16 tag
        raise CustodyError(f"{path}: salt, nonce or sealed key has the wrong length", hint="the file was damaged")
    return document


def _write(path: Path, master: DataKey, password: bytes) -> None:
    if len(password) < MIN_PASSWORD_BYTES:
        raise UsageError(
            f"the password has {len(password)} bytes, at least {MIN_PASSWORD_BYTES} are needed",
            hint="use several random words",
        )
    header: dict[str, Any] = {
        "format": _FORMAT,
        "version": 1,
        "kdf": {
            "name": "argon2id",
            "memory_kib": _MEMORY_KIB,
            "passes": _PASSES,
            "lanes": _LANES,
            "salt": _b64(os.urandom(16)),
        },
        "cipher": "AES-256-GCM",
        "nonce": _b64(os.urandom(12)),
    }
    sealing = _derive(password, header["kdf"])
    sealed = AESGCM(sealing).encrypt(base64.b64decode(header["nonce"]), reveal(master), _aad(header))
    replace_file(path, json.dumps({**header, "sealed": _b64(sealed)}, indent=1).encode(), mode=0o600)


def _derive(password: bytes, kdf: dict[str, Any]) -> bytes:
    return hash_secret_raw(
        secret=password,
        salt=_bytes(kdf, "salt"),
        time_cost=kdf["passes"],
        memory_cost=kdf["memory_kib"],
        parallelism=kdf["lanes"],
        hash_len=32,
        type=Type.ID,
    )


def _aad(header: dict[str, Any]) -> bytes:
    return frame(b"strongroom/master-key/v1", canonical_json(header))


def _context(context: bytes) -> bytes:
    return frame(b"strongroom/file-custody/v1", context)


def _bytes(document: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(document[name], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise CustodyError(f"a master key file's {name} is not base64", hint="the file was damaged") from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
