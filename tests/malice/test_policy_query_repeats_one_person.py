"""The analyst joins one person with thirty rows of its own, so that a group of one looks like a group of thirty."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import pytest

from strongroom.policy import FusedPolicy, fuse, parse_policy_toml, policy_template
from strongroom.policy.query import QueryError, check_sql
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="employer")
TABLES = {"staff": ["id", "pay"], "mine": ["id", "tag"]}
REPEATS = [
    "SELECT avg(s.pay) FROM staff s JOIN mine m ON s.id = m.id",
    "SELECT avg(s.pay) FROM staff s, mine m WHERE s.id = m.id",
    "SELECT avg(s.pay) FROM mine m LEFT JOIN staff s USING (id)",
    "SELECT avg(s.pay) FROM staff s RIGHT JOIN mine m ON s.id = m.id",
    "SELECT avg(pay) FROM (SELECT s.pay FROM staff s JOIN mine m ON s.id = m.id) AS x",
    "WITH x AS (SELECT s.pay FROM staff s JOIN mine m ON s.id = m.id) SELECT avg(pay) FROM x",
    "SELECT avg(x.pay) FROM (SELECT pay, id FROM staff WHERE id = 42) AS x CROSS JOIN mine",
    "SELECT avg(x.pay) FROM (SELECT pay FROM staff WHERE id = 42) AS x JOIN (SELECT tag FROM mine) AS y ON TRUE",
    "SELECT avg(s.pay) FROM staff s CROSS JOIN staff t WHERE s.id = 42",
    "SELECT g.a FROM (SELECT avg(s.pay) AS a, s.id FROM staff s, mine m WHERE s.id = m.id GROUP BY s.id) AS g",
    "SELECT avg(s.pay) FROM staff s JOIN (SELECT tag, count(*) AS n FROM mine GROUP BY tag) AS g ON s.id = 42",
]


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
    connection.execute("CREATE TABLE staff(id INT, pay DOUBLE)")
    connection.execute("INSERT INTO staff SELECT i, 1000 + i FROM range(100) AS t(i)")
    connection.execute("CREATE TABLE mine(id INT, tag INT)")
    connection.execute("INSERT INTO mine SELECT 42, i FROM range(30) AS t(i)")
    return connection


@pytest.mark.parametrize("unit", [None, "id"])
@pytest.mark.parametrize("text", REPEATS)
def test_repeated_person_is_counted_once(text: str, unit: str | None, engine: duckdb.DuckDBPyConnection) -> None:
    assert 1042.0 in {row[0] for row in engine.sql(text).fetchall()}, "the attack works where nobody checks"
    checked = check_sql(text, _fused(("staff", 10, unit), ("mine", 1, None)), TABLES)
    assert 1042.0 not in {row[0] for row in engine.sql(checked).fetchall()}


def test_reserved_names_cannot_stand_in_for_the_row_numbers() -> None:
    text = "SELECT avg(s.pay) FROM staff s, (SELECT id, tag AS __strongroom_row FROM mine) AS m WHERE s.id = m.id"
    with pytest.raises(QueryError, match="reserved"):
        check_sql(text, _fused(("staff", 10, None), ("mine", 1, None)), TABLES)


def test_honest_join_keeps_its_groups(engine: duckdb.DuckDBPyConnection) -> None:
    text = "SELECT avg(s.pay), count(*) FROM staff s LEFT JOIN mine m ON s.id = m.id"
    checked = check_sql(text, _fused(("staff", 10, None), ("mine", 1, None)), TABLES)
    assert engine.sql(checked).fetchall() == engine.sql(text).fetchall()
