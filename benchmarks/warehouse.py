"""TPC-H data for the benchmarks: generated once per scale into a cache outside the repository."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import duckdb
import duckdb_extension_tpch
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from strongroom.envelope.custody import Custody, create_custody
from strongroom.envelope.keys import DatasetKeys
from strongroom.envelope.manifest import Manifest, unwrap_data_key
from strongroom.envelope.table import Layout, encrypt_table, open_table
from strongroom.statements import SigningKey

TABLES: Final = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
QUERIES: Final = range(1, 23)


def cache() -> Path:
    """Return the directory that keeps generated data between runs."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "strongroom" / "benchmarks"


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty directory beside the cache, removed afterwards."""
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="run-") as directory:
        yield Path(directory)


def tpch_source(scale: float) -> Mapping[str, Path]:
    """Return the Parquet file of each table at ``scale``, plain; generated once.

    By the generator whose answers are published with it: other generators fill addresses and comments differently,
    and five of the 22 answers depend on them.
    """
    target = cache() / f"tpch-{scale:g}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="generating-") as partial, _tpch() as connection:
            connection.execute("CALL dbgen(sf = ?)", [scale])
            for table in TABLES:
                where = Path(partial) / "tables" / f"{table}.parquet"
                where.parent.mkdir(exist_ok=True)
                connection.execute(f"COPY {table} TO '{where}' (FORMAT parquet, COMPRESSION zstd)")
            with suppress(OSError):  # somebody else may have generated the same data meanwhile
                where.parent.rename(target)
    return {table: target / f"{table}.parquet" for table in TABLES}


def encrypt(
    scale: float,
    directory: Path,
    tables: Sequence[str] = TABLES,
    *,
    watch: Callable[[Custody], Custody] = lambda custody: custody,
) -> Mapping[str, tuple[Manifest, DatasetKeys]]:
    """Encrypt tables as their owner would; return each manifest with the keys the broker would release: all columns.

    ``watch`` may wrap the owner's custody, to count what it is asked.
    """
    owner = SigningKey.generate(name="benchmark-owner")
    custody = watch(create_custody(f"file:{directory / 'master.key'}", password=lambda: b"generated data only"))
    source = tpch_source(scale)
    encrypted = {}
    for table in tables:
        manifest = encrypt_table(
            source[table], directory / f"{table}-encrypted", dataset=table, version=1, owner=owner, custody=custody
        )
        dek = unwrap_data_key(manifest, custody=custody)
        keys = DatasetKeys.from_dek(dek, dataset=table, version=1, columns=manifest.columns)
        encrypted[table] = (manifest, keys)
    return encrypted


def open_encrypted(scale: float, directory: Path) -> Mapping[str, ds.Dataset]:
    """Encrypt every table and open it as a workload does."""
    return {
        table: open_table(directory / f"{table}-encrypted", keys, manifest=manifest)
        for table, (manifest, keys) in encrypt(scale, directory).items()
    }


def open_plain(scale: float, directory: Path) -> Mapping[str, ds.Dataset]:
    """Write every table without encryption but otherwise alike, and open it the same way."""
    opened = {}
    for table, source in tpch_source(scale).items():
        write_plain(pq.read_table(source), directory / f"{table}-plain")
        opened[table] = open_plain_table(directory / f"{table}-plain")
    return opened


def write_plain(data: pa.Table, directory: Path) -> None:
    """Write ``data`` as ``envelope.table`` would if it did not encrypt: same codec, row groups and encodings."""
    directory.mkdir()
    with (
        (directory / "part-00000.parquet").open("wb") as sink,
        pq.ParquetWriter(
            sink, data.schema, compression="zstd", compression_level=1, store_decimal_as_integer=True
        ) as writer,
    ):
        writer.write_table(data, row_group_size=Layout().row_group_rows)
        writer.close()
        sink.flush()
        os.fsync(sink.fileno())


def open_plain_table(directory: Path) -> ds.Dataset:
    """Open what :func:`write_plain` wrote, with the scan options and the footers in memory that ``open_table`` has."""
    form = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True))
    opened = ds.dataset(sorted(directory.glob("*.parquet")), format=form)
    fragments = list(opened.get_fragments())
    for fragment in fragments:
        fragment.ensure_complete_metadata()
    return ds.FileSystemDataset(fragments, opened.schema, form, opened.filesystem)


def tpch_queries() -> Mapping[int, str]:
    """Return the text of the 22 queries, with the validation parameters."""
    return dict(_published("SELECT query_nr, query FROM tpch_queries()"))


def tpch_answers(scale: float) -> Mapping[int, str]:
    """Return the published answers at 0.01, 0.1 or 1: a header and one line per row, parts separated by ``|``."""
    return dict(_published("SELECT query_nr, answer FROM tpch_answers() WHERE scale_factor = ?", scale))


def _published(query: str, *parameters: object) -> list[tuple[int, str]]:
    with _tpch() as connection:
        return connection.execute(query, list(parameters)).fetchall()


def _tpch() -> duckdb.DuckDBPyConnection:
    """Open an empty database with the tpch extension, from the package that ships it."""
    [extension] = Path(duckdb_extension_tpch.__file__).parent.glob("extensions/*/tpch.duckdb_extension")
    connection = duckdb.connect(":memory:")
    connection.execute(f"LOAD '{extension}'")
    return connection
