"""The analyst reaches a column that its owner withholds, by every way of naming it that SQL has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from strongroom.policy import FusedPolicy, fuse, parse_policy_toml, policy_template
from strongroom.policy.query import QueryError, check_sql
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="employer")
TABLES = {"staff": ["id", "pay", "Name"], "other": ["id", "name"]}


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


@pytest.mark.parametrize(
    "text",
    [
        "SELECT name FROM staff",
        "SELECT NAME FROM staff",
        'SELECT "Name" FROM staff',
        "SELECT staff.name FROM staff",
        "SELECT s.Name AS id FROM staff AS s",
        "SELECT id FROM staff WHERE name = 'Ann'",
        "SELECT id FROM staff ORDER BY name",
        "SELECT count(*) FROM staff GROUP BY name",
        "SELECT count(*) FROM staff HAVING max(name) > 'A'",
        "SELECT n FROM (SELECT name AS n FROM staff)",
        "WITH x(a) AS (SELECT name FROM staff) SELECT a FROM x",
        "SELECT a.id FROM staff a JOIN staff b ON a.name = b.name",
        "SELECT a.id FROM staff a JOIN staff b USING (name)",
        "SELECT (SELECT max(name) FROM staff)",
        "SELECT id FROM staff WHERE EXISTS (SELECT 1 FROM staff s WHERE s.name = staff.name)",
        "SELECT * REPLACE (name AS id) FROM staff",
        "SELECT row_number() OVER (ORDER BY name) FROM staff",
        "SELECT CASE WHEN length(name) > 3 THEN 1 END FROM staff",
        "SELECT staff FROM staff",
        "SELECT struct_pack(staff) FROM staff",
        "SELECT COLUMNS('n.*') FROM staff",
        "SELECT id FROM staff UNION SELECT name FROM staff",
        "SELECT id FROM staff LIMIT (SELECT max(length(name)) FROM staff)",
    ],
)
def test_withheld_column_is_refused_wherever_it_stands(text: str) -> None:
    with pytest.raises(QueryError):
        check_sql(text, _fused(("staff", 1, None), ("other", 1, None), withhold=["name"]), TABLES)


def test_star_leaves_the_withheld_column_out() -> None:
    fused = _fused(("staff", 1, None), ("other", 1, None), withhold=["name"])
    for text in ("SELECT * FROM staff", "SELECT s.* FROM staff s", "FROM staff", "TABLE staff"):
        assert "name" not in check_sql(text, fused, TABLES).casefold()


def test_withheld_column_that_was_not_even_asked_for_is_refused() -> None:
    fused = _fused(("staff", 1, None), withhold=["name"])
    with pytest.raises(QueryError, match="'name' is not among the columns"):
        check_sql("SELECT name FROM staff", fused, {"staff": ["id", "pay"]})
