"""The analyst asks for large groups, and hides in the aggregate a condition that only one person meets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import pytest

from strongroom.policy import FusedPolicy, fuse, parse_policy_toml, policy_template
from strongroom.policy.query import QueryError, check_sql
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="employer")
TABLES = {"staff": ["id", "pay", "boss", "dept"]}


def _fused(*datasets: tuple[str, int, str | None], withhold: Sequence[str] = ()) -> FusedPolicy:
    policies = [
        policy_template(
            dataset=dataset,
            owner=OWNER.party,
            analysts=[],
            purposes=[],
            expires=datetime(2030, 1, 1, tzinfo=UTC),
            minimum_group=size,
            unit=unit,
            withhold=withhold,
        )
        for dataset, size, unit in datasets
    ]
    return fuse([parse_policy_toml(text) for text in policies])


@pytest.fixture(scope="module")
def engine() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE staff(id INT, pay DOUBLE, boss INT, dept VARCHAR)")
    connection.execute("INSERT INTO staff SELECT i, 1000 + i, (i = 42)::INT, 'all' FROM range(100) AS t(i)")
    return connection


@pytest.mark.parametrize(
    "text",
    [
        "SELECT sum(CASE WHEN id = 42 THEN pay ELSE 0 END) FROM staff",
        "SELECT sum(if(id = 42, pay, 1)) FROM staff",
        "SELECT sum(pay * (id = 42)::INT) FROM staff",
        "SELECT sum(pay * greatest(0, 1 - abs(id - 42))) FROM staff",
        "SELECT sum(pay // (1 + abs(id - 42))) FROM staff",
        "SELECT sum(pay / (1 + (id - 42))) FROM staff",
        "SELECT sum(pay % id) FROM staff",
        "SELECT sum(nullif(pay, 1001)) FROM staff",
        "SELECT sum(coalesce(pay, 0)) FROM staff",
        "SELECT sum(pay) FILTER (WHERE id = 42) FROM staff",
        "SELECT count(nullif(id, 42)) FROM staff",
        "SELECT count(DISTINCT CASE WHEN id = 42 THEN pay END) FROM staff",
        "SELECT sum((SELECT avg(s.pay) FROM staff s WHERE s.id = staff.id)) FROM staff",
        "SELECT sum(v) FROM (SELECT CASE WHEN id = 42 THEN pay ELSE 0 END AS v FROM staff) AS s",
        "SELECT sum(v) FROM (SELECT pay * boss AS v FROM staff) AS s",
        "WITH a AS (SELECT pay * boss AS v FROM staff), b AS (SELECT v FROM a) SELECT sum(v) FROM b",
        "SELECT sum(CAST(boss AS BOOLEAN)) FROM staff",
        "SELECT max(pay) FROM staff",
        "SELECT dept, pay FROM (SELECT dept, pay, count(*) OVER (PARTITION BY dept) AS n FROM staff) WHERE n > 10",
        "SELECT dept FROM staff GROUP BY dept HAVING max(CASE WHEN id = 42 THEN pay END) > 1000",
        "SELECT dept FROM staff GROUP BY dept ORDER BY sum(CASE WHEN id = 42 THEN pay END)",
        "SELECT count(*) FROM staff WHERE pay > (SELECT pay FROM staff WHERE id = 42)",
        "SELECT count(*) FROM staff WHERE 1042 IN (SELECT pay FROM staff WHERE id = 42)",
        "SELECT count(*) FROM staff WHERE EXISTS (SELECT 1 FROM staff WHERE id = 42 AND pay > 1000)",
        "SELECT g.n FROM (SELECT count(*) AS n FROM staff) AS g SEMI JOIN staff AS s ON s.id = 42 AND s.pay > 1000",
        "SELECT g.n FROM (SELECT count(*) AS n FROM staff) AS g JOIN staff AS s ON s.id = 42 AND s.pay > 1000",
        "SELECT sum(s.pay * g.f) FROM staff s JOIN (SELECT id, id % 42 f FROM staff GROUP BY 1) g ON s.id = g.id",
    ],
)
def test_condition_inside_an_aggregate_is_refused(text: str) -> None:
    with pytest.raises(QueryError):
        check_sql(text, _fused(("staff", 10, None)), TABLES)


@pytest.mark.parametrize(
    "summed",
    ["sum(pay * boss)", "avg(pay * (boss + 1))", "covar_pop(pay, boss)", "corr(pay, boss)", "variance(pay + boss)"],
)
def test_product_with_a_column_that_marks_one_person_is_null(summed: str, engine: duckdb.DuckDBPyConnection) -> None:
    text = f"SELECT {summed}, count(*) FROM staff"
    (value, everyone) = engine.sql(text).fetchall()[0]
    assert value is not None
    held = engine.sql(check_sql(text, _fused(("staff", 10, None)), TABLES))
    assert held.fetchall() == [(None, everyone)]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT sum(pay) FROM staff WHERE id = 42",
        "SELECT id, sum(pay) FROM staff GROUP BY id",
        "SELECT sum(pay) FROM staff GROUP BY CASE WHEN id = 42 THEN 1 END, id > 95",
        "SELECT sum(pay) FROM (SELECT pay FROM staff WHERE id = 42) AS s",
        "SELECT avg(pay) FROM staff GROUP BY boss, id % 20",
    ],
)
def test_condition_around_an_aggregate_makes_a_group_that_is_dropped(
    text: str, engine: duckdb.DuckDBPyConnection
) -> None:
    everything = engine.sql(text).fetchall()
    assert 1042.0 in {row[-1] for row in everything}, "the attack works where nobody checks"
    shown = engine.sql(check_sql(text, _fused(("staff", 10, None)), TABLES)).fetchall()
    assert 1042.0 not in {row[-1] for row in shown}
    assert len(shown) < len(everything)
