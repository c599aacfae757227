"""Hand a dataset's keys to Parquet's modular encryption (spec/1-encrypted-dataset.md §4).

One CryptoFactory per process and a key client that is local: it wraps and unwraps file keys under :class:`DatasetKeys`
in memory, so that a thousand files cost no call to any key service. It never invents a key and never writes plaintext.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from strongroom.envelope.keys import DatasetKeys, MissingKeyError
from strongroom.envelope.names import column_key_id, footer_key_id
from strongroom.envelope.wrapping import UnwrapError, unwrap_file_key, wrap_file_key

_CACHE = timedelta(minutes=10)
_MATERIAL = b'"masterKeyID"'
_MAX_MATERIAL = 4096
_lock = threading.Lock()
_held: dict[str, DatasetKeys] = {}
_factory: pe.CryptoFactory | None = None


class _LocalKeyClient(pe.KmsClient):  # type: ignore[misc]  # pyarrow has no type hints
    """What Parquet calls a KMS client: wraps under the keys that the connection's handle stands for."""

    def __init__(self, connection: pe.KmsConnectionConfig) -> None:
        super().__init__()
        try:
            self._keys = _held[connection.key_access_token]
        except KeyError:
            raise MissingKeyError("these dataset keys were given up", hint="open the dataset again") from None

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return wrap_file_key(self._keys, key_bytes, master_key_id=master_key_identifier)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return unwrap_file_key(self._keys, wrapped_key, master_key_id=master_key_identifier)


def crypto_factory() -> pe.CryptoFactory:
    """Return this process's one CryptoFactory; it owns the caches, so a second one would multiply the work."""
    global _factory  # noqa: PLW0603  one per process is the point
    with _lock:
        if _factory is None:
            _factory = pe.CryptoFactory(_LocalKeyClient)
        return _factory


def connection(keys: DatasetKeys) -> pe.KmsConnectionConfig:
    """Return the configuration that leads Parquet to ``keys``: an opaque handle, no secret in it."""
    with _lock:
        _held[keys.handle] = keys
    return pe.KmsConnectionConfig(key_access_token=keys.handle)


def give_up(keys: DatasetKeys) -> None:
    """Wipe ``keys`` and forget them; every dataset opened with them stops being readable.

    End the process that held them soon after: a scan with a filter that begins now may never return (pyarrow waits for
    row group statistics that no longer decrypt).
    """
    with _lock:
        _held.pop(keys.handle, None)
        factory = _factory
    keys.wipe()
    if factory is not None:
        factory.remove_cache_entries_for_token(keys.handle)


def encryption(keys: DatasetKeys, *, columns: Sequence[str]) -> pe.FileEncryptionProperties:
    """Return what one Parquet writer needs: encrypted footer, a key per column, fresh 256-bit file keys.

    Every one of ``columns`` must have its key; a column without one would be written in plaintext, so it is an error.
    """
    footer = footer_key_id(keys.dataset, keys.version)
    by_column = {column_key_id(keys.dataset, keys.version, column): [column] for column in columns}
    for key_id in (footer, *by_column):
        keys.key(key_id)
    configuration = pe.EncryptionConfiguration(
        footer_key=footer,
        column_keys=by_column,
        uniform_encryption=False,
        encryption_algorithm="AES_GCM_V1",
        plaintext_footer=False,
        double_wrapping=False,
        internal_key_material=True,
        data_key_length_bits=256,
        cache_lifetime=_CACHE,
    )
    return crypto_factory().file_encryption_properties(connection(keys), configuration)


def decryption(keys: DatasetKeys) -> pe.FileDecryptionProperties:
    """Return what one ``pyarrow.parquet.ParquetFile`` needs to read with ``keys``."""
    return crypto_factory().file_decryption_properties(connection(keys), _reading())


def dataset_decryption(keys: DatasetKeys) -> ds.ParquetDecryptionConfig:
    """Return what ``pyarrow.dataset`` needs to read with ``keys``."""
    return ds.ParquetDecryptionConfig(crypto_factory(), connection(keys), _reading())


def try_column_keys(metadata: pq.FileMetaData, keys: DatasetKeys, *, columns: Sequence[str]) -> None:
    """Unwrap one file key of each of ``columns``, so that a key that does not fit fails here and by name.

    It must be tried here: where statistics do not decrypt, pyarrow aborts the process or never returns. Raises
    UnwrapError naming the column, or MissingKeyError.
    """
    if not metadata.num_row_groups:
        return
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)  # in memory: the footer, with every chunk's key material in JSON
    material = dict(_key_material(sink.getvalue().to_pybytes()))
    for column in columns:
        key_id = column_key_id(keys.dataset, keys.version, column)
        if key_id not in material:
            raise UnwrapError(f"column {column!r} is not encrypted under {key_id}")
        try:
            unwrap_file_key(keys, material[key_id], master_key_id=key_id)
        except UnwrapError as error:
            raise UnwrapError(f"the key released for column {column!r} does not fit", hint=error.hint) from error


def _key_material(footer: bytes) -> Iterator[tuple[str, str]]:
    """Yield master key id and wrapped key of every key material in a footer, as pyarrow or parquet-java wrote it."""
    decoder = json.JSONDecoder()
    position = footer.find(_MATERIAL)
    while position >= 0:
        start = footer.rfind(b'{"', 0, position + 1)  # the id may be the first field
        try:
            found, _ = decoder.raw_decode(footer[start : start + _MAX_MATERIAL].decode("utf-8", "replace"))
            yield str(found["masterKeyID"]), str(found["wrappedDEK"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnwrapError("a file's key material is malformed") from error
        position = footer.find(_MATERIAL, position + 1)


def _reading() -> pe.DecryptionConfiguration:
    return pe.DecryptionConfiguration(cache_lifetime=_CACHE)
