"""The 22 queries of TPC-H pass unchanged where no minimum group is asked for, and give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from strongroom.policy import DataUsePolicy, FusedPolicy, fuse
from strongroom.policy.query import check_sql

pytestmark = pytest.mark.skipif(find_spec("duckdb_extension_tpch") is None, reason="the TPC-H extension is absent")


@pytest.fixture(scope="module")
def tpch() -> duckdb.DuckDBPyConnection:
    import duckdb_extension_tpch

    folder = Path(duckdb_extension_tpch.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    connection = duckdb.connect()
    connection.execute(f"LOAD '{folder / 'tpch.duckdb_extension'}'")
    connection.execute("CALL dbgen(sf = 0.01)")
    return connection


@pytest.fixture
def tables(tpch: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    rows = tpch.sql("SELECT table_name, column_name FROM information_schema.columns ORDER BY ordinal_position")
    for table, column in rows.fetchall():
        found.setdefault(table, []).append(column)
    assert len(found) == 8
    return found


@pytest.fixture
def fused(make_policy: Callable[..., DataUsePolicy], tables: dict[str, list[str]]) -> FusedPolicy:
    return fuse([make_policy(dataset=table, minimum_group=1) for table in tables])


@pytest.mark.parametrize("number", range(1, 23))
def test_query_passes_and_its_answer_is_the_same(
    number: int, tpch: duckdb.DuckDBPyConnection, tables: dict[str, list[str]], fused: FusedPolicy
) -> None:
    [[text]] = tpch.execute("SELECT query FROM tpch_queries() WHERE query_nr = ?", [number]).fetchall()
    checked = check_sql(text, fused, tables)
    result, expected = tpch.sql(checked), tpch.sql(text)
    named = zip(result.columns, expected.columns, strict=True)
    assert all(mine in (theirs, f"_col_{place}") for place, (mine, theirs) in enumerate(named))
    assert result.fetchall() == expected.fetchall()
    assert check_sql(text, fused, tables, dialect="spark")


def test_pricing_summary_keeps_its_sums_under_a_minimum_group(
    make_policy: Callable[..., DataUsePolicy], tpch: duckdb.DuckDBPyConnection, tables: dict[str, list[str]]
) -> None:
    fused = fuse([make_policy(dataset=table, expires=datetime(2030, 1, 1, tzinfo=UTC)) for table in tables])
    [[text]] = tpch.execute("SELECT query FROM tpch_queries() WHERE query_nr = 1").fetchall()
    plain, held = tpch.sql(text).fetchall(), tpch.sql(check_sql(text, fused, tables)).fetchall()
    assert [row[:5] for row in held] == [row[:5] for row in plain]
    # The tax has nine values, too few for a sum of products with it in groups of ten.
    assert [row[5] for row in held] == [None] * len(plain)
    assert [row[6:] for row in held] == [row[6:] for row in plain]
