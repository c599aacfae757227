"""The owner's data becomes ciphertext plus a wrapped data key; custody of the master key lives here.

Start at :func:`encrypt_table` and :func:`open_table` (tables), :func:`encrypt_files` and :func:`open_files` (any other
file), :func:`open_custody` (master keys). Format: spec/1-encrypted-dataset.md. Never writes plaintext to disk.

Names are loaded when first used: a broker that only holds keys never loads Parquet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strongroom.envelope.container import SealedReader, SealedWriter, open_file, seal_file
    from strongroom.envelope.custody import Custody, create_custody, open_custody
    from strongroom.envelope.files import SealedFiles, encrypt_files, open_files
    from strongroom.envelope.footer import TamperedDataError
    from strongroom.envelope.keys import DataKey, DatasetKeys
    from strongroom.envelope.manifest import (
        Manifest,
        read_manifest,
        rewrap,
        sign_manifest,
        unwrap_data_key,
        verify_manifest,
        write_manifest,
    )
    from strongroom.envelope.table import decrypting, encrypt_table, open_table, write_table

__all__ = [
    "Custody",
    "DataKey",
    "DatasetKeys",
    "Manifest",
    "SealedFiles",
    "SealedReader",
    "SealedWriter",
    "TamperedDataError",
    "create_custody",
    "decrypting",
    "encrypt_files",
    "encrypt_table",
    "open_custody",
    "open_file",
    "open_files",
    "open_table",
    "read_manifest",
    "rewrap",
    "seal_file",
    "sign_manifest",
    "unwrap_data_key",
    "verify_manifest",
    "write_manifest",
    "write_table",
]

_HOMES = {
    "container": ("SealedReader", "SealedWriter", "open_file", "seal_file"),
    "custody": ("Custody", "create_custody", "open_custody"),
    "files": ("SealedFiles", "encrypt_files", "open_files"),
    "footer": ("TamperedDataError",),
    "keys": ("DataKey", "DatasetKeys"),
    "manifest": (
        "Manifest",
        "read_manifest",
        "rewrap",
        "sign_manifest",
        "unwrap_data_key",
        "verify_manifest",
        "write_manifest",
    ),
    "table": ("decrypting", "encrypt_table", "open_table", "write_table"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
