"""Read tables of an owner in any of several formats, as a stream of Arrow batches.

CSV, JSON lines (both also compressed), Parquet, ORC and Arrow IPC. Memory stays bounded by a block, the schema is
settled before the first batch, and nothing is ever written. Values that do not fit it stop the conversion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.orc as pa_orc
import pyarrow.parquet as pq

from strongroom.envelope.progress import Progress
from strongroom.errors import EnvelopeError

_BLOCK = 8 << 20
_BATCH_ROWS = 131_072
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".orc": "orc",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_DECIMAL = re.compile(r"decimal128\((\d{1,2}), ?(\d{1,2})\)")


class SourceError(EnvelopeError):
    """A source table cannot be read, or its parts do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Tables with one schema, ready to be read once: ``batches()`` streams them, ``size`` is their bytes on disk."""

    schema: pa.Schema
    size: int
    batches: Callable[[Progress], Iterator[pa.RecordBatch]]


def open_sources(paths: Sequence[Path], *, types: Mapping[str, str], nulls: Sequence[str]) -> Source:
    """Return one stream over ``paths``, all of the schema of the first; ``types`` overrides inferred column types.

    A directory stands for the files in it. ``types`` maps a column name to an Arrow type as text (``string``,
    ``int64``, ``date32``, ``timestamp[us]``, ``decimal128(12, 2)``); it is for text formats, which have no types.
    ``nulls`` lists the unquoted CSV texts that mean "no value".
    """
    files = [_open(path, types, nulls) for path in _expand(paths)]
    schema = files[0].schema
    for file in files[1:]:
        if set(file.schema.names) != set(schema.names):
            odd = sorted(set(file.schema.names) ^ set(schema.names))
            raise SourceError(f"{file.path} and {files[0].path} differ in columns {odd[:10]}", hint="make them agree")
    total = sum(file.size for file in files)

    def batches(progress: Progress) -> Iterator[pa.RecordBatch]:
        done = 0
        for file in files:
            before = done
            for batch, position in file.read():
                yield _conform(batch, schema, file.path)
                progress(before + min(position, file.size), total)
            done = before + file.size
            progress(done, total)

    return Source(schema=schema, size=total, batches=batches)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    schema: pa.Schema
    read: Callable[[], Iterator[tuple[pa.RecordBatch, int]]]


def _expand(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
            if not inside:
                raise SourceError(f"the directory {path} holds no file")
            files += inside
        else:
            files.append(path)
    if not files:
        raise SourceError("no source was named", hint="name at least one CSV, JSON lines, Parquet, ORC or Arrow file")
    return files


def _open(path: Path, types: Mapping[str, str], nulls: Sequence[str]) -> _File:
    compression = _COMPRESSIONS.get(path.suffix.lower())
    name = path.with_suffix("") if compression else path
    form = _FORMATS.get(name.suffix.lower())
    if form is None or (compression and form not in {"csv", "tsv", "jsonl"}):
        raise SourceError(
            f"cannot tell the format of {path.name!r}",
            hint=f"known endings: {' '.join(sorted(_FORMATS))}; text may also end in {' '.join(sorted(_COMPRESSIONS))}",
        )
    try:
        size = path.stat().st_size
        wanted = {column: _parse_type(column, text) for column, text in types.items()}
        if form in {"csv", "tsv"}:
            return _text(path, size, compression, wanted, _csv_reader("\t" if form == "tsv" else ",", nulls))
        if form == "jsonl":
            return _text(path, size, compression, wanted, _json_reader)
        return {"parquet": _parquet, "orc": _orc, "arrow": _arrow}[form](path, size)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}", hint="check the path") from error
    except pa.ArrowInvalid as error:
        raise _misread(path, error) from error


_Reader = Callable[[Any, dict[str, pa.DataType], "pa.Schema | None"], Any]


def _text(path: Path, size: int, compression: str | None, wanted: dict[str, pa.DataType], reader: _Reader) -> _File:
    """Return a text file whose schema is inferred from its first block, so that the stream has one from the start."""
    if size == 0:
        raise SourceError(f"{path} is empty", hint="a table needs at least a line that names its columns")
    with _stream(path, compression)[1] as stream, reader(stream, wanted, None) as first:
        inferred = first.schema
    unknown = sorted(set(wanted) - set(inferred.names))
    if unknown:
        raise SourceError(f"types name columns that {path} lacks: {unknown[:10]}", hint=f"it has {inferred.names[:20]}")
    # A column that is empty throughout the first block has no type yet; text can hold whatever follows.
    schema = pa.schema([f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in inferred])

    def read() -> Iterator[tuple[pa.RecordBatch, int]]:
        raw, stream = _stream(path, compression)
        try:
            with stream, reader(stream, {f.name: f.type for f in schema}, schema) as batches:
                for batch in batches:
                    yield batch, raw.position
        except pa.ArrowInvalid as error:
            raise _misread(path, error) from error

    return _File(path, size, schema, read)


def _csv_reader(delimiter: str, nulls: Sequence[str]) -> _Reader:
    def open_csv(stream: Any, types: dict[str, pa.DataType], _schema: pa.Schema | None) -> Any:  # noqa: ANN401
        return pa_csv.open_csv(
            stream,
            read_options=pa_csv.ReadOptions(block_size=_BLOCK),
            parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                null_values=list(nulls),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    return open_csv


def _json_reader(stream: Any, types: dict[str, pa.DataType], schema: pa.Schema | None) -> Any:  # noqa: ANN401
    explicit = schema if schema is not None else pa.schema(list(types.items()))
    return pa_json.open_json(
        stream,
        read_options=pa_json.ReadOptions(block_size=_BLOCK),
        parse_options=pa_json.ParseOptions(
            explicit_schema=explicit, unexpected_field_behavior="infer" if schema is None else "error"
        ),
    )


class _Counted:
    """A file that remembers how far it was read; Arrow reads ahead in another thread."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb", buffering=0)
        self.position = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.position += len(data)
        return data

    @property
    def closed(self) -> bool:
        return self._stream.closed

    def close(self) -> None:
        self._stream.close()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _stream(path: Path, compression: str | None) -> tuple[_Counted, Any]:
    raw = _Counted(path)
    stream = pa.PythonFile(raw, mode="r")
    return raw, pa.CompressedInputStream(stream, compression) if compression else stream


def _parquet(path: Path, size: int) -> _File:
    with pq.ParquetFile(path) as file:
        schema, groups = file.schema_arrow, max(1, file.num_row_groups)

    def read() -> Iterator[tuple[pa.RecordBatch, int]]:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
                    yield batch, size * group // groups

    return _File(path, size, plain_schema(schema), read)


def _orc(path: Path, size: int) -> _File:
    schema = pa_orc.ORCFile(path).schema

    def read() -> Iterator[tuple[pa.RecordBatch, int]]:
        file = pa_orc.ORCFile(path)
        for stripe in range(file.nstripes):
            yield file.read_stripe(stripe), size * stripe // file.nstripes

    return _File(path, size, plain_schema(schema), read)


def _arrow(path: Path, size: int) -> _File:
    with pa.memory_map(str(path)) as stream, pa.ipc.open_file(stream) as file:
        schema = file.schema

    def read() -> Iterator[tuple[pa.RecordBatch, int]]:
        with pa.memory_map(str(path)) as stream, pa.ipc.open_file(stream) as file:
            for index in range(file.num_record_batches):
                yield file.get_batch(index), size * index // file.num_record_batches

    return _File(path, size, plain_schema(schema), read)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with view types made plain: other engines and older readers cannot read views."""
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pa.schema([field.with_type(views.get(field.type, field.type)) for field in schema])


def _conform(batch: pa.RecordBatch, schema: pa.Schema, path: Path) -> pa.RecordBatch:
    """Return ``batch`` with the columns of ``schema`` in its order and types, or say which column does not fit."""
    if batch.schema.equals(schema):
        return batch
    arrays = []
    for field in schema:
        column = batch.column(field.name)
        try:
            arrays.append(column if column.type == field.type else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(
                f"{path}: column {field.name!r} is {column.type}, expected {field.type}",
                hint="make the files agree, or encrypt them as separate datasets",
            ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parse_type(column: str, text: str) -> pa.DataType:
    decimal = _DECIMAL.fullmatch(text)
    try:
        return pa.decimal128(int(decimal[1]), int(decimal[2])) if decimal else pa.type_for_alias(text)
    except ValueError as error:
        raise SourceError(
            f"column {column!r}: unknown type {text[:40]!r}",
            hint="use an Arrow type such as string, int64, float64, bool, date32, timestamp[us], decimal128(12, 2)",
        ) from error


def _misread(path: Path, error: pa.ArrowInvalid) -> SourceError:
    return SourceError(
        f"cannot read {path}: {str(error).splitlines()[0][:300]}",
        hint="types were inferred from the first 8 MiB; name the column's type, for example types={'column': 'string'}",
    )
