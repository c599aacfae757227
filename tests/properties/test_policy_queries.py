"""Any text is a checked query or a QueryError; whatever is checked shows large groups only."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.policy import FusedPolicy, fuse, parse_policy_toml, policy_template
from strongroom.policy.query import QueryError, check_sql
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="bank")
TABLES = {"staff": ["id", "pay", "city"], "sales": ["id", "price"]}
SIZE = 5


def _fused(size: int) -> FusedPolicy:
    texts = [
        policy_template(
            dataset=dataset,
            owner=OWNER.party,
            analysts=[],
            purposes=[],
            expires=datetime(2030, 1, 1, tzinfo=UTC),
            minimum_group=size,
            unit=unit,
        )
        for dataset, unit in (("staff", "id"), ("sales", None))
    ]
    return fuse([parse_policy_toml(text) for text in texts])


OPEN, HELD = _fused(1), _fused(SIZE)
FRAGMENTS = """
    SELECT * FROM staff sales WHERE GROUP BY HAVING ORDER LIMIT 1 ( ) , id pay city count(*) sum( avg( max( AS
    x y . = < > + - * / ' " ` ; -- /* */ JOIN LEFT ON USING UNION ALL WITH CASE WHEN THEN END OVER PARTITION
    DISTINCT IN EXISTS NOT NULL CAST INTERVAL DATE 'a' 1.5 read_csv( COPY TO $$ :: [ ] { } ? $1 @ # % IS
    LATERAL UNNEST( VALUES QUALIFY
"""
fragments = st.sampled_from(FRAGMENTS.split())


@settings(max_examples=150, deadline=None)
@given(st.lists(fragments, max_size=25).map(" ".join) | st.text(max_size=60), st.sampled_from(["duckdb", "spark"]))
def test_any_text_is_checked_or_refused_with_reasons(text: str, dialect: str) -> None:
    for fused in (OPEN, HELD):
        try:
            checked = check_sql("SELECT " + text, fused, TABLES, dialect=dialect)
        except QueryError as error:
            reasons = error.reasons
        else:
            reasons = ("none",) if check_sql(checked, OPEN, TABLES, dialect=dialect) else ()
        assert reasons


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30).filter(lambda text: "\x00" not in text and text.isprintable()))
def test_literals_and_names_arrive_as_they_were_written(text: str) -> None:
    quoted = text.replace("'", "''")
    assert duckdb.sql(check_sql(f"SELECT '{quoted}' AS a", OPEN, TABLES)).fetchall() == [(text,)]
    if text.strip() not in {"", "*"} and not text.casefold().startswith("__strongroom"):
        named = text.replace('"', '""')
        result = duckdb.sql(check_sql(f'SELECT 1 AS "{named}"', OPEN, TABLES))
        assert result.columns[0].casefold() == text.casefold()


@pytest.fixture(scope="module")
def engine() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.execute("CREATE TABLE staff(id INT, pay INT, city VARCHAR)")
    connection.execute("INSERT INTO staff SELECT i, i * 7 % 31, 'c' || (i * i % 7) FROM range(40) AS t(i)")
    connection.execute("CREATE TABLE sales(id INT, price INT)")
    connection.execute("INSERT INTO sales SELECT i * i % 40, i % 11 FROM range(120) AS t(i)")
    return connection


_where = st.sampled_from(
    ["TRUE", "s.id < 12", "s.id = 7", "s.pay > 20", "s.city = 'c1'", "s.pay > (SELECT avg(pay) FROM staff)"]
)
_joins = st.sampled_from(
    ["staff s", "staff s JOIN sales t ON s.id = t.id", "staff s LEFT JOIN sales t ON s.id = t.id", "staff s, sales t"]
)
_keys = st.lists(st.sampled_from(["s.city", "s.id", "s.id % 3", "s.pay > 15"]), max_size=2, unique=True)


@settings(max_examples=80, deadline=None)
@given(_joins, _where, _keys, st.booleans())
def test_no_checked_result_stands_for_fewer_people_than_the_minimum(
    engine: duckdb.DuckDBPyConnection, source: str, where: str, keys: list[str], inner: bool
) -> None:
    named = [f"{key} AS k{number}" for number, key in enumerate(keys)]
    grouped = f" GROUP BY {', '.join(keys)}" if keys else ""
    if inner:
        columns = ", ".join([*named, "s.id AS person"])
        by = [f"k{number}" for number in range(len(keys))]
        people = "count(DISTINCT person)"
        text = f"SELECT {', '.join([*by, people])} FROM (SELECT {columns} FROM {source} WHERE {where}) AS x"
        text += f" GROUP BY {', '.join(by)}" if by else ""
    else:
        text = f"SELECT {', '.join([*named, 'count(DISTINCT s.id)'])} FROM {source} WHERE {where}{grouped}"
    shown = engine.sql(check_sql(text, HELD, TABLES)).fetchall()
    everything = engine.sql(text).fetchall()
    assert all(row[-1] >= SIZE for row in shown)
    assert set(shown) <= set(everything)
    if "sales" not in source:
        assert set(shown) == {row for row in everything if row[-1] >= SIZE}
