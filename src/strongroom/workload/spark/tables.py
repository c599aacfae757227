"""Read and write encrypted Parquet with Spark, column by column under keys that never leave the executors' agents.

A read opens the files of a verified manifest and no other; a write encrypts every column or fails
(spec/1-encrypted-dataset.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.digests import parse_text
from strongroom.errors import EnvelopeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from strongroom.envelope.keys import DatasetKeys
    from strongroom.envelope.manifest import FileEntry, Manifest

_READ_FILES = "strongroom.read.files"
_WRITE_AS = "strongroom.write.as"


def declare_files(manifest: Manifest, location: Path) -> str:
    """Return the list that executors check each file against before they open it: size, footer digest and path."""
    lines = []
    for entry in manifest.files:
        if entry.footer_digest is None:
            raise EnvelopeError(f"{entry.path} of {manifest.dataset}@{manifest.version} is not a table's file")
        lines.append(f"{entry.size} {parse_text(entry.footer_digest).hex()} {resolve_entry(location, entry.path)}")
    return "\n".join(lines)


def resolve_entry(location: Path, name: str) -> Path:
    """Return where a manifest's file lies; raise EnvelopeError if the name leads elsewhere."""
    root = location.resolve()
    path = (root / name).resolve()
    if root not in path.parents or "\n" in name:
        raise EnvelopeError(f"{name!r} is not a file below {location}")
    return path


def read_encrypted(spark: SparkSession, manifest: Manifest, location: Path, columns: Iterable[str]) -> DataFrame:
    """Return ``columns`` of the encrypted dataset at ``location`` as a DataFrame.

    Raises EnvelopeError unless the manifest is signed and the directory holds exactly its files. A file that differs
    from it in name, size or footer is refused by the executor that opens it, also when exchanged after a first check.
    """
    from strongroom.envelope.manifest import verify_files

    verify_files(location, manifest, kind="table", dataset=manifest.dataset, version=manifest.version)
    wanted = list(columns)
    if not wanted:
        raise EnvelopeError(
            f"no column of {manifest.dataset} was released", hint="ask for columns that the policy allows"
        )
    paths = [str(resolve_entry(location, entry.path)) for entry in manifest.files]
    if not paths:
        raise EnvelopeError(f"{manifest.dataset}@{manifest.version} has no files")
    reader = spark.read.option(_READ_FILES, declare_files(manifest, location))
    return reader.parquet(*paths).select(*(f"`{name}`" for name in wanted))


def describe_written(directory: Path, keys: DatasetKeys) -> tuple[FileEntry, ...]:
    """Return the manifest entries of what :func:`write_encrypted` wrote to ``directory``.

    Each file is read back, opened with ``keys`` and its rows counted, so that storage cannot slip in a file that this
    job did not write. Raises EnvelopeError if one does not open.
    """
    import pyarrow.parquet as pq

    from strongroom.digests import file_digest
    from strongroom.envelope.footer import footer_digest
    from strongroom.envelope.manifest import FileEntry
    from strongroom.envelope.parquet_crypto import decryption

    entries = []
    for path in sorted(directory.iterdir()):
        try:
            rows = pq.read_metadata(path, decryption_properties=decryption(keys)).num_rows
        except (OSError, ValueError) as error:
            raise EnvelopeError(f"{path.name} is not a file that this job wrote") from error
        entries.append(
            FileEntry(
                path=path.name,
                size=path.stat().st_size,
                sha256=file_digest(path),
                footer_digest=footer_digest(_tail(path)),
                rows=rows,
            )
        )
    return tuple(entries)


def write_encrypted(frame: DataFrame, directory: Path, *, dataset: str, version: int) -> None:
    """Write ``frame`` to the new ``directory``: Parquet, zstd, AES-256-GCM, a key per column and one for the footer."""
    writer = frame.write.option(_WRITE_AS, f"{dataset}@{version}").option("compression", "zstd")
    writer.mode("errorifexists").parquet(str(directory))


def _tail(path: Path) -> bytes:
    """Return the end of a Parquet file, from its footer on."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 8))
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(max(0, size - 8 - length))
        return stream.read()
