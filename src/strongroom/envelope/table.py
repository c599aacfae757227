"""Turn tables into encrypted Parquet datasets and open them again (spec/1-encrypted-dataset.md §4-6).

Writing streams and leaves a whole dataset or nothing; opening checks manifest, file set, sizes, footers and row counts
before the first read. Nothing here writes plaintext to disk, and there is no way to ask for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq

from strongroom.envelope.custody import Custody
from strongroom.envelope.footer import EncryptedSink, TamperedDataError, read_footer
from strongroom.envelope.keys import DataKey, DatasetKeys, InvalidKeyError, MissingKeyError
from strongroom.envelope.manifest import (
    Column,
    FileEntry,
    Manifest,
    custody_context,
    sign_manifest,
    verify_files,
    write_manifest,
)
from strongroom.envelope.names import parse_column, parse_owned_dataset
from strongroom.envelope.parquet_crypto import dataset_decryption, decryption, encryption, give_up, try_column_keys
from strongroom.envelope.progress import Progress, silent
from strongroom.envelope.sources import open_sources, plain_schema
from strongroom.envelope.staging import staged_directory
from strongroom.errors import EnvelopeError
from strongroom.statements import SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a table is cut: row groups of at most so many rows or Arrow bytes, files of about so many encrypted bytes."""

    row_group_rows: int = 1 << 20
    row_group_bytes: int = 256 << 20
    part_bytes: int = 512 << 20


LAYOUT = Layout()
PAGE_ROWS = 131_072  # pyarrow's 20,000 make six times as many pages, each with a tag, a nonce and a fresh buffer


class TableError(EnvelopeError):
    """A table cannot be encrypted as it is: its columns clash or have names that cannot be keyed."""


class WithheldColumnError(MissingKeyError):
    """A column was asked for whose key was not released."""


class UnknownColumnError(EnvelopeError):
    """A column was asked for that the table does not have."""


def encrypt_table(
    sources: Path | str | Sequence[Path | str],
    target: Path,
    *,
    dataset: str,
    version: int,
    owner: SigningKey,
    custody: Custody,
    columns: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    nulls: Sequence[str] = ("",),
    layout: Layout = LAYOUT,
    progress: Progress | None = None,
    created: datetime | None = None,
) -> Manifest:
    """Encrypt ``sources`` (CSV, JSON lines, Parquet, ORC, Arrow; files or directories) into the directory ``target``.

    Streams: memory stays near one row group (1 Mi rows or 256 MiB). Only ``columns`` are taken, after ``rename``;
    ``types`` overrides inferred types and ``nulls`` says which unquoted CSV texts mean "no value". ``progress`` gets
    source bytes done and total. One call to ``custody`` in all. Raises EnvelopeError, leaving nothing at ``target``.
    """
    listed = [sources] if isinstance(sources, Path | str) else list(sources)
    source = open_sources([Path(path) for path in listed], types=dict(types or {}), nulls=nulls)
    schema, order = _choose(source.schema, columns, dict(rename or {}))
    described = describe_schema(schema)
    dek = DataKey.generate()
    keys = DatasetKeys.from_dek(dek, dataset=parse_owned_dataset(dataset), version=version, columns=schema.names)
    try:
        wrapped = custody.wrap(dek, context=custody_context(dataset, version))
        chosen = (
            pa.RecordBatch.from_arrays([batch.column(index) for index in order], schema=schema)
            for batch in source.batches(progress or silent)
        )
        with staged_directory(target) as staging:
            entries = _write_parts(chosen, schema, staging, keys, layout=layout)
            manifest = sign_manifest(
                dataset=dataset,
                version=version,
                kind="table",
                schema=described,
                files=entries,
                custody=custody.uri,
                wrapped_key=wrapped,
                created=created or datetime.now(UTC),
                owner=owner,
            )
            write_manifest(staging, manifest)
        return manifest
    finally:
        dek.wipe()
        give_up(keys)


def write_table(
    data: pa.RecordBatchReader | pa.Table, directory: Path, keys: DatasetKeys, *, layout: Layout = LAYOUT
) -> tuple[FileEntry, ...]:
    """Write ``data`` as encrypted Parquet files into the new ``directory`` and return their manifest entries.

    For outputs of a job: the caller signs the manifest. ``keys`` must hold the key of every column. Digests are taken
    from the bytes as they are written, not read back, since the storage may be hostile.
    """
    schema = plain_schema(data.schema)
    _choose(schema, None, {})
    describe_schema(schema)
    batches = data.to_batches() if isinstance(data, pa.Table) else data
    with staged_directory(directory) as staging:
        return _write_parts((_cast(batch, schema) for batch in batches), schema, staging, keys, layout=layout)


def open_table(
    directory: Path, keys: DatasetKeys, *, manifest: Manifest, columns: Sequence[str] | None = None
) -> ds.Dataset:
    """Return the table in ``directory`` as a dataset of its released columns, after checking everything about it.

    ``manifest`` comes from ``verify_manifest`` with the owner the broker names. Checked before any row is read: its
    signature, dataset and version against ``keys``, the exact set of files, sizes, footer digests, row counts, schema,
    and that every released key fits. Projection and filters are pushed down. A file changed after this call fails to
    authenticate when it is read; read under :func:`decrypting` to get that as TamperedDataError.

    Raises WithheldColumnError if ``columns`` names a column whose key is not in ``keys``, UnknownColumnError if it
    names one that is not there, TamperedDataError if the data is not what the owner signed.
    """
    verify_files(directory, manifest, kind="table", dataset=keys.dataset, version=keys.version)
    names = _released(manifest, keys, columns)
    scan = ds.ParquetFragmentScanOptions(decryption_config=dataset_decryption(keys), pre_buffer=True)
    form = ds.ParquetFileFormat(default_fragment_scan_options=scan)
    storage = pa_fs.LocalFileSystem(use_mmap=False)
    fragments: list[ds.ParquetFileFragment] = []
    schema = pa.schema([])
    for entry in manifest.files:
        fragment = form.make_fragment(str(Path(directory) / entry.path), filesystem=storage, file_size=entry.size)
        fragments.append(fragment)
        found = _verify_fragment(fragment, entry, Path(directory), keys)
        if len(fragments) == 1:
            _verify_schema(found, manifest, entry)
            schema = found
        elif not found.equals(schema, check_metadata=False):
            raise TamperedDataError(f"{entry.path} has another schema than {manifest.files[0].path}")
        _try_keys(fragment.metadata, keys, names, entry)
    released = pa.schema([schema.field(name) for name in names])
    return ds.FileSystemDataset(fragments, released, form, storage)


@contextmanager
def decrypting(what: str) -> Iterator[None]:
    """Turn what Parquet raises when data does not authenticate into TamperedDataError naming ``what``."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise TamperedDataError(
            f"cannot read {what}: {str(error).splitlines()[0][:200]}",
            hint="the storage changed a file after the dataset was opened; fetch the dataset again",
        ) from error


def describe_schema(schema: pa.Schema) -> tuple[Column, ...]:
    """Return the columns of ``schema`` as a manifest lists them: with the types that reading back will give.

    Parquet has no seconds, for example, and names the items of lists its own way. An empty table, in memory, tells.
    """
    plain = plain_schema(schema)
    buffer = pa.BufferOutputStream()
    try:
        pq.write_table(plain.empty_table(), buffer, store_decimal_as_integer=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TableError(f"Parquet cannot hold this table: {error}", hint="cast or leave out that column") from error
    return _listed(pq.read_schema(pa.BufferReader(buffer.getvalue())))


def _listed(schema: pa.Schema) -> tuple[Column, ...]:
    return tuple(Column(name=field.name, type=str(field.type)) for field in schema)


def _choose(schema: pa.Schema, columns: Sequence[str] | None, rename: dict[str, str]) -> tuple[pa.Schema, list[int]]:
    """Return the schema to write and which source column each field of it is."""
    strange = sorted(set(rename) - set(schema.names))
    names = [rename.get(name, name) for name in schema.names]
    strange += sorted(set(columns or ()) - set(names))
    if strange:
        raise UnknownColumnError(f"the source has no columns {strange[:10]}", hint=f"it has {names[:30]}")
    wanted = names if columns is None else list(columns)
    if not wanted or len(set(names)) != len(names) or len(set(wanted)) != len(wanted):
        raise TableError(
            f"a table needs at least one column and every name once, got {wanted[:30]}",
            hint="rename the second one, or choose columns",
        )
    order = [names.index(parse_column(name)) for name in wanted]
    chosen = [schema.field(index).with_name(name).remove_metadata() for index, name in zip(order, wanted, strict=True)]
    for outer in chosen:
        inside = [name for name in wanted if pa.types.is_nested(outer.type) and name.startswith(f"{outer.name}.")]
        if inside:
            raise TableError(f"column {inside[0]!r} reads as a field inside column {outer.name!r}", hint="rename it")
    return pa.schema(chosen), order


def _write_parts(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, directory: Path, keys: DatasetKeys, *, layout: Layout
) -> tuple[FileEntry, ...]:
    """Write ``batches`` as files of about ``layout.part_bytes`` each and return their entries; at least one file."""
    entries: list[FileEntry] = []
    groups = _row_groups(batches, schema, layout)
    group = next(groups, schema.empty_table())
    while group is not None:
        name = f"part-{len(entries):05d}.parquet"
        rows = 0
        with EncryptedSink(directory / name) as sink:
            writer = pq.ParquetWriter(
                pa.PythonFile(sink, mode="w"),
                schema,
                compression="zstd",
                compression_level=1,
                store_decimal_as_integer=True,
                max_rows_per_page=PAGE_ROWS,
                encryption_properties=encryption(keys, columns=schema.names),
            )
            while group is not None and (rows == 0 or sink.size < layout.part_bytes):
                writer.write_table(group, row_group_size=layout.row_group_rows)
                rows += group.num_rows
                group = next(groups, None)
            sink.begin_footer()
            writer.close()
        entries.append(
            FileEntry(path=name, size=sink.size, sha256=sink.sha256, footer_digest=sink.footer_digest, rows=rows)
        )
    return tuple(entries)


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema, layout: Layout) -> Iterator[pa.Table]:
    """Gather ``batches`` into tables of at most one row group each."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, min(batch.num_rows - start, layout.row_group_rows - rows))
            start += piece.num_rows
            held.append(piece)
            rows += piece.num_rows
            size += piece.nbytes
            if rows >= layout.row_group_rows or size >= layout.row_group_bytes:
                yield pa.Table.from_batches(held, schema)
                held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _released(manifest: Manifest, keys: DatasetKeys, columns: Sequence[str] | None) -> list[str]:
    """Return the columns to open, in the manifest's order unless ``columns`` gives one."""
    held = set(keys.columns)
    if columns is None:
        names = [name for name in manifest.columns if name in held]
        if not names:
            raise WithheldColumnError(f"no column of {keys.dataset}@{keys.version} was released")
        return names
    names = list(columns)
    unknown = [name for name in names if name not in manifest.columns]
    if unknown or not names or len(set(names)) != len(names):
        raise UnknownColumnError(
            f"{keys.dataset}@{keys.version} has no columns {unknown[:10]}"
            if unknown
            else f"cannot open columns {names}",
            hint=f"it has {list(manifest.columns)[:30]}; name each once",
        )
    withheld = [name for name in names if name not in held]
    if withheld:
        raise WithheldColumnError(
            f"columns {withheld[:10]} of {keys.dataset}@{keys.version} were not released",
            hint=f"released: {[name for name in manifest.columns if name in held][:30]}; ask the owner for the rest",
        )
    return names


def _verify_fragment(
    fragment: ds.ParquetFileFragment, entry: FileEntry, directory: Path, keys: DatasetKeys
) -> pa.Schema:
    """Return the schema of one file after checking its footer and row count.

    The footer is read once, checked against the manifest and parsed from memory; the dataset's own copy, which later
    reads rely on, must equal it, so a file changed between the two readings is noticed.
    """
    footer = read_footer(directory / entry.path, entry)
    try:
        signed = pq.read_metadata(footer, decryption_properties=decryption(keys))
        fragment.ensure_complete_metadata()
        current = fragment.metadata
    except InvalidKeyError:
        raise
    except (OSError, pa.ArrowInvalid, EnvelopeError) as error:
        raise TamperedDataError(
            f"{entry.path} does not open with the keys released for {keys.dataset}@{keys.version}",
            hint="the keys belong to another dataset or version, or the file changed while it was opened",
        ) from error
    if not current.equals(signed):
        raise TamperedDataError(f"{entry.path} changed while it was opened", hint="fetch the dataset again")
    if current.num_rows != entry.rows:
        raise TamperedDataError(f"{entry.path} has {current.num_rows} rows, the manifest says {entry.rows}")
    return fragment.physical_schema


def _verify_schema(found: pa.Schema, manifest: Manifest, entry: FileEntry) -> None:
    if _listed(found) != manifest.schema:
        raise TamperedDataError(f"{entry.path} has another schema than the manifest says", hint="ask the owner")


def _try_keys(metadata: pq.FileMetaData, keys: DatasetKeys, names: Sequence[str], entry: FileEntry) -> None:
    try:
        try_column_keys(metadata, keys, columns=names)
    except EnvelopeError as error:
        raise TamperedDataError(
            f"{entry.path}: {error.message}",
            hint="the broker holds another data key than the owner encrypted with; register the dataset again",
        ) from error


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return batch if batch.schema.equals(schema) else batch.cast(schema)
