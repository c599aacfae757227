"""SQL is one query over the inputs and their permitted columns, written anew before it runs."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import pytest

from strongroom.policy import DataUsePolicy, FusedPolicy, fuse
from strongroom.policy.query import QueryError, check_draft, check_sql

Make = Callable[..., DataUsePolicy]
TABLES = {"people": ["id", "city", "Pay", "ssn"], "shop": ["id", "spent"]}


@pytest.fixture
def fused(make_policy: Make) -> FusedPolicy:
    people = make_policy(dataset="people", minimum_group=1, withhold=["ssn"])
    return fuse([people, make_policy(dataset="shop", minimum_group=1)])


@pytest.fixture(scope="module")
def engine() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE people(id INT, city VARCHAR, Pay DOUBLE, ssn VARCHAR)")
    connection.execute("INSERT INTO people VALUES (1, 'Oslo', 10, 'a'), (2, 'Rome', 20, 'b'), (3, 'Rome', 30, 'c')")
    connection.execute("CREATE TABLE shop(id INT, spent DOUBLE)")
    connection.execute("INSERT INTO shop VALUES (1, 5), (1, 6), (3, 7)")
    return connection


def _refused(text: str, fused: FusedPolicy, *, dialect: str = "duckdb") -> tuple[str, ...]:
    with pytest.raises(QueryError) as caught:
        check_sql(text, fused, TABLES, dialect=dialect)
    assert all(reason in str(caught.value) for reason in caught.value.reasons)
    return caught.value.reasons


@pytest.mark.parametrize(
    "text",
    [
        "SELECT city, count(*), max(pay) FROM people GROUP BY city ORDER BY 1",
        "SELECT p.id, s.spent FROM people p LEFT JOIN shop s USING (id) ORDER BY p.id, s.spent",
        "SELECT id FROM people p WHERE EXISTS (SELECT 1 FROM shop s WHERE s.id = p.id) ORDER BY id",
        "WITH rich(n, m) AS (SELECT id, pay FROM people WHERE pay > 10) SELECT n FROM rich ORDER BY m DESC LIMIT 1",
        "SELECT id, rank() OVER (PARTITION BY city ORDER BY pay) r FROM people ORDER BY id",
        "SELECT id FROM people UNION SELECT id FROM shop ORDER BY 1",
        "FROM people SELECT id WHERE city LIKE 'R%' ORDER BY id",
        "SELECT sum(pay) FILTER (WHERE city = 'Rome') FROM people",
        "SELECT count(*) FROM people SEMI JOIN shop ON people.id = shop.id",
        "SELECT city, count(*) FROM people GROUP BY ROLLUP (city) ORDER BY ALL",
        "SELECT DATE '2020-01-31' + INTERVAL 1 MONTH, extract(year FROM DATE '2020-01-31'), 7 // 2, 7 % 2, 2 ** 3",
        "SELECT CASE WHEN pay BETWEEN 15 AND 25 THEN 'a' ELSE upper(city) || '!' END FROM people ORDER BY id",
    ],
)
def test_checked_query_has_the_same_result(text: str, fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    if "ORDER BY ALL" in text:
        assert _refused(text, fused) == ("'ALL' is not part of SQL that a query may use",)
        text = text.replace("ORDER BY ALL", "ORDER BY city")
    assert engine.sql(check_sql(text, fused, TABLES)).fetchall() == engine.sql(text).fetchall()
    assert check_sql(text, fused, TABLES) == check_sql(check_sql(text, fused, TABLES), fused, TABLES)


def test_star_stands_for_the_permitted_columns_in_their_own_spelling(
    fused: FusedPolicy, engine: duckdb.DuckDBPyConnection
) -> None:
    result = engine.sql(check_sql("SELECT * FROM People ORDER BY ID", fused, TABLES))
    assert result.columns == ["id", "city", "Pay"]


def test_results_keep_the_names_that_the_analyst_wrote(fused: FusedPolicy, engine: duckdb.DuckDBPyConnection) -> None:
    result = engine.sql(check_sql('SELECT PAY AS "My Pay", count(*) FROM people GROUP BY pay', fused, TABLES))
    assert result.columns == ["My Pay", "_col_1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 statements, must be one SELECT"),
        ("SELECT 1; SELECT 2", "2 statements, must be one SELECT"),
        ("DROP TABLE people", "is a DROP statement"),
        ("INSERT INTO people VALUES (1)", "is a INSERT statement"),
        ("COPY people TO 'x.csv'", "is a COPY statement"),
        ("ATTACH 'x.db'", "is a ATTACH statement"),
        ("PRAGMA database_list", "is a PRAGMA statement"),
        ("SET memory_limit = '1GB'", "is a SET statement"),
        ("VALUES (1)", "is a VALUES statement"),
        ("SELEC id", "is an expression and no statement, must be one SELECT"),
        ("SELECT FROM WHERE", "cannot be read as SQL"),
        ("SELECT 'unfinished", "cannot be read as SQL"),
        ("SELECT * FROM nowhere", "table 'nowhere' is not an input of the job, must be one of people, shop"),
        ("SELECT * FROM main.people", "named with a schema"),
        ("SELECT * FROM information_schema.tables", "named with a schema"),
        (
            "SELECT nope FROM people",
            "column 'nope' is not among the columns that the job asks for, or in several tables",
        ),
        ("SELECT people.nope FROM people", "Unknown column: nope"),
        (
            "SELECT id FROM people, shop",
            "column 'id' is not among the columns that the job asks for, or in several tables",
        ),
        ("SELECT rowid FROM people", "column 'rowid' is not among"),
        ("SELECT people FROM people", "is not part of SQL"),
        ("SELECT x.id FROM people", "belongs to no table"),
        ("WITH people AS (SELECT 1 AS id) SELECT id FROM people", "WITH gives the name 'people'"),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n FROM r) SELECT n FROM r", "WITH RECURSIVE"),
        ("SELECT * FROM people NATURAL JOIN shop", "NATURAL JOIN"),
        ("SELECT * FROM people POSITIONAL JOIN shop", "JOIN"),
        ("SELECT id FROM people USING SAMPLE 1", "is not part of SQL"),
        ("SELECT id INTO other FROM people", "is not part of SQL"),
        ("SELECT id FROM people FOR UPDATE", "is not part of SQL"),
        ("SELECT $1 FROM people", "is not part of SQL"),
        ("SELECT CAST(id AS JSON) FROM people", "type JSON is not among those"),
        ("SELECT list_transform([1], x -> x) FROM people", "function"),
        ("SELECT p.id FROM people p, LATERAL (SELECT spent FROM shop WHERE shop.id = p.id) s", "LATERAL"),
        ("SELECT id FROM people a, shop a", "resolved"),
    ],
)
def test_query_outside_of_the_rules_is_refused_with_its_reason(text: str, reason: str, fused: FusedPolicy) -> None:
    assert any(reason in said for said in _refused(text, fused))


def test_every_reason_is_listed_at_once(fused: FusedPolicy) -> None:
    reasons = _refused("SELECT getenv('HOME'), ssn FROM people, nowhere, read_csv('x')", fused)
    assert {reason.split(" ")[1] for reason in reasons} >= {"getenv()", "read_csv()", "'nowhere'"}


def test_input_without_a_policy_is_no_table(make_policy: Make) -> None:
    fused = fuse([make_policy(dataset="people")])
    with pytest.raises(QueryError, match="no policy covers input 'shop'"):
        check_sql("SELECT count(*) FROM people", fused, TABLES)


def test_query_that_is_too_long_or_too_deep_is_refused_quickly(fused: FusedPolicy) -> None:
    assert "at most 262144" in _refused("SELECT 1 --" + "x" * (1 << 18), fused)[0]
    assert "nest at most 100" in _refused("SELECT " + "(" * 50_000 + "1" + ")" * 50_000, fused)[0]
    assert _refused("SELECT " + "- " * 100_000 + "1", fused)


def test_dialect_that_nobody_checked_is_refused(fused: FusedPolicy) -> None:
    assert "must be one of duckdb, spark" in _refused("SELECT 1", fused, dialect="mysql")[0]


def test_spark_gets_its_own_quoting(fused: FusedPolicy) -> None:
    text = check_sql('SELECT city, "a\\"b" AS q FROM people', fused, TABLES, dialect="spark")
    assert text == "SELECT `people`.`city` AS `city`, 'a\"b' AS `q` FROM `people` AS `people`"
    for attack in ("SELECT * FROM parquet.`/data`", "SELECT reflect('java.lang.System', 'getenv', 'HOME')"):
        assert _refused(attack, fused, dialect="spark")
    assert _refused("SELECT java_method('java.lang.Runtime', 'getRuntime')", fused, dialect="spark")
    assert _refused("SELECT TRANSFORM(id) USING 'cat' AS (x) FROM people", fused, dialect="spark")
    assert _refused("SELECT input_file_name() FROM people", fused, dialect="spark")
    assert _refused("SELECT _metadata.file_path FROM people", fused, dialect="spark")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SELECT FROM 1", "cannot be read as SQL"),
        ("SELECT nope FROM people", "column 'nope' is not among the columns that the job asks for"),
        ("SELECT p.nope FROM people p", "the names in the query cannot be resolved: "),
        ("SELECT id FROM folk", "table 'folk' is not an input of the job"),
        ("SELECT read_text('/etc/passwd') FROM people", "function"),
        ("DROP TABLE people", "must be one SELECT"),
    ],
)
def test_query_that_no_policy_could_permit_is_refused_before_policies_are_known(text: str, reason: str) -> None:
    with pytest.raises(QueryError) as caught:
        check_draft(text, TABLES)
    assert any(reason in said for said in caught.value.reasons)


@pytest.mark.parametrize("text", ["SELECT ssn FROM people", "SELECT max(pay) FROM people", "SELECT * FROM people"])
def test_query_that_some_policy_could_permit_is_left_to_the_policies(text: str) -> None:
    check_draft(text, TABLES)


def test_columns_that_nobody_has_named_are_left_to_the_policies() -> None:
    check_draft("SELECT nope FROM people", {"people": ["*"]})
    with pytest.raises(QueryError, match="table 'folk'"):
        check_draft("SELECT nope FROM folk", {"people": ["*"]})
