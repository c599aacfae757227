"""Sign for what a job wrote: a manifest over encrypted files, so that nothing is exchanged between one hand and the
next.

A parcel's key is not wrapped in its manifest, as an owner's is: the broker holds the job's output key, and a
result's key travels sealed to each recipient (spec/1-encrypted-dataset.md §3, spec/4-release.md §8).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from strongroom.envelope.files import Opener, write_files
from strongroom.envelope.footer import TamperedDataError
from strongroom.envelope.keys import DatasetKeys
from strongroom.envelope.manifest import FileEntry, Manifest, sign_manifest, verify_manifest, write_manifest
from strongroom.envelope.parquet_crypto import decryption, give_up
from strongroom.envelope.sources import plain_schema
from strongroom.envelope.table import describe_schema, write_table
from strongroom.statements import SigningKey, Statement, VerifyKey
from strongroom.workload.spark.tables import describe_written

_ELSEWHERE = "release:"  # no custody: the key is the broker's to give
_NO_KEY = "-"


def pack(table: pa.Table, directory: Path, keys: DatasetKeys, *, signer: SigningKey) -> Manifest:
    """Write ``table`` encrypted into the new ``directory`` and return the manifest, signed and written beside it."""
    entries = write_table(table, directory, keys)
    return _sign(directory, keys, plain_schema(table.schema), entries, signer)


def pack_files(sources: Mapping[str, Opener], directory: Path, keys: DatasetKeys, *, signer: SigningKey) -> Manifest:
    """Encrypt what ``sources`` open into the new ``directory`` and return the manifest, written beside it."""
    return _sign(directory, keys, None, write_files(sources, directory, keys), signer)


def sign_for(directory: Path, keys: DatasetKeys, *, rows: int, signer: SigningKey) -> Manifest:
    """Return the signed manifest of the encrypted Parquet files that executors wrote into ``directory``.

    ``rows`` is how many rows they say they wrote. The storage is hostile: raise TamperedDataError if the files hold
    another number of rows, for then some were taken away, doubled or exchanged.
    """
    entries = describe_written(directory, keys)
    found = sum(entry.rows or 0 for entry in entries)
    if not entries or found != rows:
        raise TamperedDataError(
            f"{directory.name} holds {found} rows in {len(entries)} files, the executors wrote {rows}",
            hint="the storage lost or exchanged a file; run the job again",
        )
    first = pq.ParquetFile(directory / entries[0].path, decryption_properties=decryption(keys))
    return _sign(directory, keys, first.schema_arrow, entries, signer)


def accept(text: str, *, signer: VerifyKey) -> Manifest:
    """Return the manifest in ``text`` if ``signer`` signed it."""
    return verify_manifest(Statement.decode(text), owner=signer)


def _sign(
    directory: Path, keys: DatasetKeys, schema: pa.Schema | None, entries: tuple[FileEntry, ...], signer: SigningKey
) -> Manifest:
    manifest = sign_manifest(
        dataset=keys.dataset,
        version=keys.version,
        kind="files" if schema is None else "table",
        schema=() if schema is None else describe_schema(schema.remove_metadata()),
        files=entries,
        custody=_ELSEWHERE,
        wrapped_key=_NO_KEY,
        created=datetime.now(UTC),
        owner=signer,
    )
    write_manifest(directory, manifest)
    if schema is not None:
        give_up(keys)
    return manifest
