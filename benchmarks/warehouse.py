"""TPC-H data for the benchmarks: generated once per scale into a cache outside the repository."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import duckdb
import duckdb_extension_tpch

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
