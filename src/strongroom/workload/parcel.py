"""Sign for what a job wrote: a manifest over encrypted files, so that nothing is exchanged between one hand and the next.

A parcel's key is not wrapped in its manifest, as an owner's is: the broker holds the job's output key, and a result's key
travels sealed to each recipient (spec/1-encrypted-dataset.md §3, spec/4-release.md §8).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from strongroom.digests import file_digest
from strongroom.envelope.footer import TamperedDataError, footer_digest
from strongroom.envelope.keys import DatasetKeys
from strongroom.envelope.manifest import FileEntry, Manifest, sign_manifest, verify_manifest, write_manifest
from strongroom.envelope.parquet_crypto import decryption, give_up
from strongroom.envelope.sources import plain_schema
from strongroom.envelope.table import describe_schema, write_table
from strongroom.statements import SigningKey, Statement, VerifyKey

_ELSEWHERE = "release:"  # no custody: the key is the broker's to give
_NO_KEY = "-"
_TRAILER = 8


def pack(table: pa.Table, directory: Path, keys: DatasetKeys, *, signer: SigningKey) -> Manifest:
    """Write ``table`` encrypted into the new ``directory`` and return the manifest, signed and written beside it."""
    entries = write_table(table, directory, keys)
    return _sign(directory, keys, plain_schema(table.schema), entries, signer)


def sign_for(directory: Path, keys: DatasetKeys, *, rows: int, signer: SigningKey) -> Manifest:
    """Return the signed manifest of the encrypted Parquet files that executors wrote into ``directory``.

    ``rows`` is how many rows they say they wrote. The storage is hostile: raise TamperedDataError if the files hold
    another number of rows or cannot be opened, for then some were taken away, doubled or exchanged.
    """
    for stray in [path for path in directory.iterdir() if path.suffix != ".parquet"]:
        stray.unlink()  # Spark's _SUCCESS and checksum files
    entries, schema = [], None
    for path in sorted(directory.glob("*.parquet")):
        try:
            metadata = pq.ParquetFile(path, decryption_properties=decryption(keys)).metadata
        except (OSError, pa.ArrowInvalid) as error:
            raise TamperedDataError(f"{path.name} is not a file that this job wrote") from error
        schema = metadata.schema.to_arrow_schema() if schema is None else schema
        size = path.stat().st_size
        with path.open("rb") as stream:
            stream.seek(-_TRAILER, 2)
            length = int.from_bytes(stream.read(4), "little") + _TRAILER
            stream.seek(-min(length, size), 2)
            digest = footer_digest(stream.read())
        entries.append(
            FileEntry(
                path=path.name, size=size, sha256=file_digest(path), footer_digest=digest, rows=metadata.num_rows
            )
        )
    found = sum(entry.rows or 0 for entry in entries)
    if schema is None or found != rows:
        raise TamperedDataError(
            f"{directory.name} holds {found} rows in {len(entries)} files, the executors wrote {rows}",
            hint="the storage lost or exchanged a file; run the job again",
        )
    return _sign(directory, keys, schema, tuple(entries), signer)


def accept(text: str, *, signer: VerifyKey) -> Manifest:
    """Return the manifest in ``text`` if ``signer`` signed it."""
    return verify_manifest(Statement.decode(text), owner=signer)


def _sign(
    directory: Path, keys: DatasetKeys, schema: pa.Schema, entries: tuple[FileEntry, ...], signer: SigningKey
) -> Manifest:
    manifest = sign_manifest(
        dataset=keys.dataset,
        version=keys.version,
        kind="table",
        schema=describe_schema(schema.remove_metadata()),
        files=entries,
        custody=_ELSEWHERE,
        wrapped_key=_NO_KEY,
        created=datetime.now(UTC),
        owner=signer,
    )
    write_manifest(directory, manifest)
    give_up(keys)
    return manifest
