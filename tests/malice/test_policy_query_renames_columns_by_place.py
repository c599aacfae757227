"""The analyst gives a table's columns new names in FROM, so that a withheld one goes by the name of a permitted one."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pytest

from strongroom.policy import FusedPolicy, fuse, parse_policy_toml, policy_template
from strongroom.policy.query import QueryError, check_sql
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="employer")
TABLES = {"staff": ["id", "pay", "name"]}


def _fused(size: int, unit: str | None) -> FusedPolicy:
    text = policy_template(
        dataset="staff",
        owner=OWNER.party,
        analysts=[],
        purposes=[],
        expires=datetime(2030, 1, 1, tzinfo=UTC),
        minimum_group=size,
        unit=unit,
        withhold=["name"],
    )
    return fuse([parse_policy_toml(text)])


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM staff AS s(a, b, id)",
        "SELECT s.id FROM staff s(pay, x, id)",
        "WITH c AS (SELECT id, pay FROM staff) SELECT z.id FROM c AS z(pay, id)",
    ],
)
def test_withheld_column_does_not_go_by_another_name(text: str) -> None:
    with pytest.raises(QueryError, match="renames columns by their place"):
        check_sql(text, _fused(1, None), TABLES)


def test_unit_does_not_go_by_the_name_of_a_column_with_more_values() -> None:
    with pytest.raises(QueryError, match="renames columns by their place"):
        check_sql("SELECT sum(s.pay) FROM staff AS s(x, id, pay) WHERE s.x = 42", _fused(10, "id"), TABLES)


def test_inner_select_may_name_its_results() -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE staff AS SELECT 1 AS id, 20 AS pay, 'Ann' AS name")
    text = "SELECT x.id, x.pay FROM (SELECT pay, id FROM staff) AS x(id, pay)"
    assert connection.sql(check_sql(text, _fused(1, None), TABLES)).fetchall() == [(20, 1)]


@pytest.mark.parametrize("expression", ["name || 'x'", "length(name)", "(name) || ''"])
def test_result_named_like_a_withheld_column_is_not_ordered_by_that_column(expression: str) -> None:
    with pytest.raises(QueryError, match="order by the result's name alone"):
        check_sql(f"SELECT id AS name FROM staff ORDER BY {expression}", _fused(1, None), TABLES)
    assert check_sql("SELECT id AS name FROM staff ORDER BY name", _fused(1, None), TABLES)
