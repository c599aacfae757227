"""With a minimum group, results are groups that are large enough."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pytest

from strongroom.policy import DataUsePolicy, FusedPolicy, fuse
from strongroom.policy.query import QueryError, check_sql

Make = Callable[..., DataUsePolicy]
TABLES = {"people": ["id", "city", "pay", "boss"], "shop": ["id", "spent"]}


@pytest.fixture(scope="module")
def engine() -> duckdb.DuckDBPyConnection:
    """One hundred people: 60 in Rome, 35 in Oslo, 5 in Bern; person 42 is the boss and bought thirty things."""
    connection = duckdb.connect()
    connection.execute("CREATE TABLE people(id INT, city VARCHAR, pay DOUBLE, boss INT)")
    connection.execute(
        "INSERT INTO people SELECT i, CASE WHEN i < 60 THEN 'Rome' WHEN i < 95 THEN 'Oslo' ELSE 'Bern' END, "
        "1000 + i, (i = 42)::INT FROM range(100) AS t(i)"
    )
    connection.execute("CREATE TABLE shop(id INT, spent DOUBLE)")
    connection.execute("INSERT INTO shop SELECT 42, i FROM range(30) AS t(i)")
    connection.execute("INSERT INTO shop SELECT i, 1 FROM range(0, 100, 2) AS t(i)")
    return connection


@pytest.fixture
def fused(make_policy: Make) -> FusedPolicy:
    people = make_policy(dataset="people", minimum_group=10)
    return fuse([people, make_policy(dataset="shop", minimum_group=1)])


@pytest.fixture
def fused_by_unit(make_policy: Make) -> FusedPolicy:
    shop = make_policy(dataset="shop", minimum_group=10, unit="ID")
    return fuse([make_policy(dataset="people", minimum_group=1), shop])


def _refused(text: str, fused: FusedPolicy) -> tuple[str, ...]:
    with pytest.raises(QueryError) as caught:
        check_sql(text, fused, TABLES)
    return caught.value.reasons


def test_small_groups_are_dropped(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    text = check_sql("SELECT city, count(*) AS n, avg(pay) FROM people GROUP BY city ORDER BY city", fused, TABLES)
    assert engine.sql(text).fetchall() == [("Oslo", 35, 1077.0), ("Rome", 60, 1029.5)]


def test_group_of_exactly_the_minimum_is_kept_and_one_less_is_not(
    fused: FusedPolicy, engine: duckdb.DuckDBPyConnection
) -> None:
    for least, kept in ((90, 1), (91, 0)):
        text = check_sql(f"SELECT sum(pay) FROM people WHERE id >= {least}", fused, TABLES)
        assert len(engine.sql(text).fetchall()) == kept


def test_units_are_counted_and_not_their_rows(fused_by_unit: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    everyone = check_sql("SELECT sum(spent) FROM shop", fused_by_unit, TABLES)
    assert len(engine.sql(everyone).fetchall()) == 1
    one_person = check_sql("SELECT sum(spent) FROM shop WHERE id = 42", fused_by_unit, TABLES)
    assert engine.sql(one_person).fetchall() == []


def test_unit_that_the_job_does_not_ask_for_cannot_be_counted(fused_by_unit: FusedPolicy) -> None:
    with pytest.raises(QueryError, match="counted by 'ID', so the job must ask for that column too"):
        check_sql("SELECT sum(spent) FROM shop", fused_by_unit, {"shop": ["spent"], "people": ["id"]})


def test_units_are_carried_through_inner_selects_and_with(
    fused_by_unit: FusedPolicy, engine: duckdb.DuckDBPyConnection
) -> None:
    inner = "SELECT spent FROM shop WHERE {}"
    for where, rows in (("id = 42", 0), ("id >= 0", 1)):
        for text in (
            f"SELECT sum(spent) FROM ({inner.format(where)}) AS s",
            f"WITH s AS ({inner.format(where)}), t AS (SELECT spent FROM s) SELECT sum(spent) FROM t",
        ):
            assert len(engine.sql(check_sql(text, fused_by_unit, TABLES)).fetchall()) == rows


def test_what_is_made_of_groups_is_free(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    text = """
        WITH cities AS (SELECT city, avg(pay) AS mean FROM people GROUP BY city)
        SELECT upper(city), max(mean) OVER (), rank() OVER (ORDER BY mean)
        FROM cities WHERE mean > 0 ORDER BY city LIMIT 5
    """
    assert engine.sql(check_sql(text, fused, TABLES)).fetchall() == [("OSLO", 1077.0, 2), ("ROME", 1077.0, 1)]


def test_subquery_over_groups_may_be_compared_with(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    text = "SELECT count(*) FROM people WHERE pay > (SELECT avg(pay) FROM people)"
    assert engine.sql(check_sql(text, fused, TABLES)).fetchall() == [(50,)]
    small = "SELECT count(*) FROM people WHERE pay > (SELECT avg(pay) FROM people WHERE id > 95)"
    assert engine.sql(check_sql(small, fused, TABLES)).fetchall() == []


def test_groups_may_be_made_by_any_expression(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    text = "SELECT pay > 1050 AS rich, count(*), sum(pay + 1) / count(*) FROM people GROUP BY rich ORDER BY 1"
    assert len(engine.sql(check_sql(text, fused, TABLES)).fetchall()) == 2


def test_product_of_columns_with_many_values_is_computed(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    text = "SELECT sum(pay * id), corr(pay, id), var_pop(pay + id) FROM people"
    assert engine.sql(check_sql(text, fused, TABLES)).fetchall() == engine.sql(text).fetchall()


def test_analysts_own_having_stays(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    text = "SELECT city FROM people GROUP BY city HAVING sum(pay) > 40000 OR count(*) < 50 ORDER BY city"
    assert engine.sql(check_sql(text, fused, TABLES)).fetchall() == [("Oslo",), ("Rome",)]


def test_failing_cast_is_null_and_quotes_nothing(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    text = check_sql("SELECT count(*) FROM people WHERE CAST(city AS INT) IS NULL", fused, TABLES)
    assert engine.sql(text).fetchall() == [(100,)]
    for cast in ("CAST(city AS INT)", "TRY_CAST(city AS INT)", "INT(city)"):
        text = check_sql(f"SELECT count(*) FROM people WHERE {cast} IS NULL", fused, TABLES, dialect="spark")
        assert "TRY_CAST(`people`.`city` AS INT)" in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SELECT * FROM people", "returns single rows, must aggregate them in groups of at least 10"),
        ("SELECT spent FROM shop", "returns single rows"),
        ("SELECT DISTINCT city FROM people", "DISTINCT"),
        ("SELECT city, pay FROM people GROUP BY city", "'pay' is neither grouped by nor aggregated"),
        ("SELECT city FROM people GROUP BY city ORDER BY pay", "'pay' is neither grouped by nor aggregated"),
        ("SELECT city FROM people GROUP BY city HAVING pay > 1", "'pay' is neither grouped by nor aggregated"),
        ("SELECT city, count(*) FROM people GROUP BY ALL", "GROUP BY ALL"),
        ("SELECT city, count(*) FROM people GROUP BY CUBE (city)", "CUBE"),
        ("SELECT count(*) FROM people GROUP BY GROUPING SETS ((city), ())", "GROUPING SETS"),
        ("SELECT count(*) FROM people LIMIT 1", "LIMIT without ORDER BY"),
        ("SELECT count(*) FROM (SELECT id FROM people ORDER BY pay LIMIT 20)", "pick single rows"),
        ("SELECT city, rank() OVER (ORDER BY count(*)) FROM people GROUP BY city", "window functions"),
        ("SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY pay) AS n FROM people) WHERE n < 20", "window"),
        ("SELECT sum(pay) FROM people UNION ALL SELECT sum(pay) FROM people", "UNION"),
        ("SELECT count(*) FROM (SELECT id FROM people UNION SELECT id FROM shop)", "UNION"),
        ("SELECT count(*) FROM people p WHERE EXISTS (SELECT 1 FROM shop s WHERE s.id = p.id)", "refers to id"),
        ("SELECT count(*) FROM (people JOIN shop USING (id))", "joins in parentheses"),
        ("SELECT sum(pay * pay * pay * pay) FROM people", "multiplies 4 columns"),
    ],
)
def test_query_that_may_show_single_rows_is_refused(text: str, reason: str, fused: FusedPolicy) -> None:
    assert any(reason in said for said in _refused(text, fused))


UNSAFE = """
    min(pay); max(pay); median(pay); first(pay); any_value(pay); mode(pay); array_agg(pay); string_agg(city, ',');
    quantile_cont(pay, 0.5); arg_max(id, pay); count_if(id = 42); bool_or(id = 42); approx_count_distinct(id);
    regr_slope(pay, id); skewness(pay)
"""


@pytest.mark.parametrize("aggregate", [one.strip() for one in UNSAFE.split(";")])
def test_aggregate_that_is_not_known_to_be_safe_is_refused(aggregate: str, fused: FusedPolicy) -> None:
    assert any("may show single rows" in said for said in _refused(f"SELECT {aggregate} FROM people", fused))
