"""The analyst writes a query that the checker reads one way and hopes the engine reads another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import pytest

from strongroom.policy import FusedPolicy, fuse, parse_policy_toml, policy_template
from strongroom.policy.query import QueryError, check_sql
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="employer")
TABLES = {"staff": ["id", "pay", "ssn"]}


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
        "SELECT id FROM staff /* */ ; DROP TABLE staff --",
        "SELECT id FROM staff /*! UNION SELECT ssn FROM staff */",
        "SELECT id /* */ FROM /* ' */ staff -- ' , ssn",
        'SELECT id AS "a""", ssn AS """b" FROM staff',
        "SELECT 'it''s' || ''';DROP TABLE staff;--' AS a FROM staff",
        "SELECT $$; DROP TABLE staff; --$$ AS a FROM staff",
        "SELECT $x$ ' $x$ AS a, id FROM staff",
        r"SELECT E'\'' AS a FROM staff",
        r"SELECT 'a\' AS a, ' , ssn FROM staff --' AS b FROM staff",
        'SELECT id AS "*/ ssn /*" FROM staff',
        "SELECT id\u00a0FROM staff",
        "SELECT id FROM staff\u2028UNION SELECT ssn FROM staff",
        "SELECT id FROM staff\x00; SELECT ssn FROM staff",
        'SELECT 1 AS "\'); SELECT ssn FROM staff; --" FROM staff',
    ],
)
def test_what_runs_is_what_was_checked(text: str) -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE staff AS SELECT 1 AS id, 2.0 AS pay, 'secret' AS ssn")
    try:
        checked = check_sql(text, _fused(("staff", 1, None), withhold=["ssn"]), TABLES)
    except QueryError:
        return  # refused is safe, too
    assert len(duckdb.extract_statements(checked)) == 1
    assert "secret" not in str(connection.sql(checked).fetchall())
    assert connection.sql("SELECT count(*) FROM staff").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "literal", ["it's", "a\\", "\\'", "'; DROP TABLE staff; --", "*/", "$$", '"', "`", "\u00e9\n\t", "", "--", "/*"]
)
def test_literal_arrives_as_it_was_written(literal: str) -> None:
    text = "SELECT '" + literal.replace("'", "''") + "' AS a"
    checked = check_sql(text, _fused(("staff", 1, None), withhold=["ssn"]), TABLES)
    assert duckdb.sql(checked).fetchall() == [(literal,)]
