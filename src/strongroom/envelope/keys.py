"""Hold data keys and derive every other key from them (spec/1-encrypted-dataset.md §3).

One random data key per dataset version; HKDF-SHA256 (RFC 5869) gives the footer key, one key per column and the files
key. A key here never prints, pickles or copies; :func:`reveal` is the only way to its bytes.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from typing import NoReturn, Self

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from strongroom.digests import frame
from strongroom.envelope.names import (
    column_key_id,
    files_key_id,
    footer_key_id,
    parse_column,
    parse_dataset,
    parse_version,
)
from strongroom.errors import EnvelopeError

KEY_BYTES = 32
MAX_BUNDLE_BYTES = 4 << 20
MAX_BUNDLE_KEYS = 16_384
_BUNDLE = "strongroom/dataset-keys"


class InvalidKeyError(EnvelopeError):
    """A key or a bundle of keys is malformed, or was wiped."""


class MissingKeyError(EnvelopeError):
    """A key that was not released is needed."""


class DataKey:
    """A 256-bit secret key: it does not print, pickle or copy, and can be wiped."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes | bytearray) or len(secret) != KEY_BYTES:
            raise InvalidKeyError(f"a data key has {KEY_BYTES} bytes, got {_size(secret)}")
        self._secret = bytearray(secret)

    @classmethod
    def generate(cls) -> Self:
        """Return a new random key from the operating system's generator."""
        return cls(os.urandom(KEY_BYTES))

    def wipe(self) -> None:
        """Overwrite the key; revealing it afterwards raises InvalidKeyError."""
        self._secret[:] = bytes(len(self._secret))
        del self._secret[:]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DataKey) and hmac.compare_digest(self._secret, other._secret)

    __hash__ = None  # type: ignore[assignment]  # a key in a set or as a dictionary key would be found by its hash

    def __repr__(self) -> str:
        return "DataKey()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a data key cannot be pickled or copied")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()


def reveal(key: DataKey) -> bytes:
    """Return the 32 bytes of ``key``; every import of this function is reviewed."""
    if not key._secret:
        raise InvalidKeyError("the key was wiped", hint="the lease ended or the owner revoked it; ask for keys again")
    return bytes(key._secret)


def derive_footer_key(dek: DataKey, *, dataset: str, version: int) -> DataKey:
    """Return the key that wraps the footer keys of this dataset version's Parquet files."""
    return _derive(dek, b"strongroom/footer-key/v1", dataset, version)


def derive_column_key(dek: DataKey, *, dataset: str, version: int, column: str) -> DataKey:
    """Return the key that wraps the file keys of one column of this dataset version."""
    return _derive(dek, b"strongroom/column-key/v1", dataset, version, parse_column(column).encode())


def derive_files_key(dek: DataKey, *, dataset: str, version: int) -> DataKey:
    """Return the key from which the keys of this dataset version's segmented files are derived."""
    return _derive(dek, b"strongroom/files-key/v1", dataset, version)


def derive_file_key(files_key: DataKey, *, dataset: str, version: int, path: str, header: bytes = b"") -> DataKey:
    """Return the key of one segmented file; ``header`` binds its random salt and every other header byte."""
    return _derive(files_key, b"strongroom/file-key/v1", dataset, version, path.encode(), header)


class DatasetKeys:
    """What a workload holds of one dataset version: key id to key, for the released columns only."""

    __slots__ = ("_keys", "dataset", "handle", "version")

    def __init__(self, dataset: str, version: int, keys: Mapping[str, DataKey]) -> None:
        self.dataset = parse_dataset(dataset)
        self.version = parse_version(version)
        if not keys:
            raise InvalidKeyError(f"a bundle for {dataset}@{version} holds no key")
        for key_id, key in keys.items():
            self._check(key_id, key)
        self._keys = dict(keys)
        self.handle = secrets.token_hex(16)  # names this bundle inside one process; not a secret, never stored

    @classmethod
    def from_dek(cls, dek: DataKey, *, dataset: str, version: int, columns: Iterable[str]) -> Self:
        """Return the footer key and one key for each of ``columns`` (a table)."""
        if isinstance(columns, str):
            raise InvalidKeyError("columns is a sequence of names, got one text", hint="write columns=[name]")
        keys = {footer_key_id(dataset, version): derive_footer_key(dek, dataset=dataset, version=version)}
        for column in columns:
            key = derive_column_key(dek, dataset=dataset, version=version, column=column)
            keys[column_key_id(dataset, version, column)] = key
        return cls(dataset, version, keys)

    @classmethod
    def for_files(cls, dek: DataKey, *, dataset: str, version: int) -> Self:
        """Return the files key alone (a dataset of segmented files)."""
        files_key = derive_files_key(dek, dataset=dataset, version=version)
        return cls(dataset, version, {files_key_id(dataset, version): files_key})

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Return the ids of the keys held, in order of release."""
        return tuple(self._keys)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns whose keys are held."""
        prefix = f"{self.dataset}@{self.version}/column/"
        return tuple(key_id.removeprefix(prefix) for key_id in self._keys if key_id.startswith(prefix))

    def key(self, key_id: str) -> DataKey:
        """Return the key called ``key_id``; raise MissingKeyError if it was not released."""
        try:
            return self._keys[key_id]
        except KeyError:
            raise MissingKeyError(
                f"no key {key_id[:120]!r} among the {len(self._keys)} released for {self.dataset}@{self.version}",
                hint="ask for columns that every owner's policy allows, of the dataset version that was released",
            ) from None

    def wipe(self) -> None:
        """Overwrite every key of the bundle."""
        for key in self._keys.values():
            key.wipe()

    def encode(self) -> bytes:
        """Return the bundle as CBOR; only ever the plaintext of an HPKE message."""
        keys = {key_id: reveal(key) for key_id, key in self._keys.items()}
        return cbor2.dumps([_BUNDLE, 1, self.dataset, self.version, keys], canonical=True)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse what :meth:`encode` wrote; raise InvalidKeyError for anything else."""
        if len(data) > MAX_BUNDLE_BYTES:
            raise InvalidKeyError(f"a bundle of keys has at most {MAX_BUNDLE_BYTES} bytes, got {len(data)}")
        try:
            name, form, dataset, version, keys = cbor2.loads(data)
        except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
            raise InvalidKeyError("not a bundle of dataset keys (CBOR)") from error
        if (name, form) != (_BUNDLE, 1) or not isinstance(keys, dict) or len(keys) > MAX_BUNDLE_KEYS:
            raise InvalidKeyError("not a bundle of dataset keys, version 1")
        bundle = cls(dataset, version, {key_id: DataKey(secret) for key_id, secret in keys.items()})
        if bundle.encode() != data:
            raise InvalidKeyError("a bundle of dataset keys is not in canonical form")
        return bundle

    def _check(self, key_id: str, key: DataKey) -> None:
        if not isinstance(key_id, str) or not isinstance(key, DataKey):
            raise InvalidKeyError("a bundle maps key ids to data keys")
        if key_id in {footer_key_id(self.dataset, self.version), files_key_id(self.dataset, self.version)}:
            return
        prefix = f"{self.dataset}@{self.version}/column/"
        if not key_id.startswith(prefix):
            raise InvalidKeyError(f"key id {key_id[:120]!r} does not belong to {self.dataset}@{self.version}")
        parse_column(key_id.removeprefix(prefix))

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def __repr__(self) -> str:
        return f"DatasetKeys(dataset={self.dataset!r}, version={self.version}, keys={len(self._keys)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("dataset keys cannot be pickled or copied")

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()


def _derive(key: DataKey, label: bytes, dataset: str, version: int, *rest: bytes) -> DataKey:
    info = frame(label, parse_dataset(dataset).encode(), str(parse_version(version)).encode(), *rest)
    return DataKey(HKDF(hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(reveal(key)))


def _size(secret: object) -> str:
    return f"{len(secret)}" if isinstance(secret, bytes | bytearray) else type(secret).__name__
