"""The embedded engine reads its own tables and nothing else: each test is a move of a hostile program."""

import threading
from datetime import timedelta

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from strongroom.errors import RefusedError, StrongroomError, UsageError
from strongroom.workload.embedded import EmbeddedEngine, QueryFailedError, QueryRefusedError, QueryTimeoutError

PATIENTS = pa.table({"name": ["Alice", "Bob", "Carol"], "age": [41, 52, 67], "city": ["Ghent", "Ghent", "Lyon"]})


@pytest.fixture
def engine():
    with EmbeddedEngine({"patients": ds.dataset(PATIENTS)}, memory_limit=1 << 28, threads=1) as engine:
        yield engine


@pytest.mark.parametrize(
    "text",
    [
        "COPY patients TO '{tmp}/stolen.csv'",
        "COPY (SELECT * FROM patients) TO '{tmp}/stolen.parquet'",
        "EXPORT DATABASE '{tmp}/stolen'",
        "ATTACH '{tmp}/stolen.db'",
        "ATTACH ':memory:' AS aside",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE aside AS SELECT * FROM patients",
        "CREATE SECRET s (TYPE s3)",
        "CREATE MACRO peek() AS TABLE SELECT * FROM patients",
        "INSERT INTO patients VALUES ('Eve', 1, 'Lyon')",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE SELECT * FROM patients",
        "VACUUM",
        "CHECKPOINT",
        "PREPARE q AS SELECT 1",
        "DETACH memory",
        "USE memory",
        "SELECT 1; SELECT 2",
        "",
    ],
)
def test_only_one_select_may_run(engine, tmp_path, text):
    with pytest.raises(RefusedError) as refusal:
        engine.sql(text.format(tmp=tmp_path))
    assert refusal.value.reasons in {("only a SELECT may run",), ("exactly one statement may run",)}
    assert list(tmp_path.iterdir()) == []
    assert engine.sql("SELECT count(*) AS n FROM patients").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", "the table function read_csv is withheld"),
        ("SELECT * FROM read_text('/etc/passwd')", "the table function read_text is withheld"),
        ("SELECT * FROM read_blob('/proc/self/environ')", "the table function read_blob is withheld"),
        ("SELECT * FROM read_parquet('https://example.org/x')", "the table function read_parquet is withheld"),
        ("SELECT * FROM glob('/*')", "the table function glob is withheld"),
        ("SELECT * FROM '/etc/passwd'", "/etc/passwd is not a table of this job"),
        ("SELECT * FROM '/tmp/x.parquet'", "/tmp/x.parquet is not a table of this job"),
        ("SELECT * FROM query('SELECT 1')", "the table function query is withheld"),
        ("SELECT * FROM query_table('patients')", "the table function query_table is withheld"),
        ("SELECT * FROM duckdb_settings()", "the table function duckdb_settings is withheld"),
        ("SELECT * FROM duckdb_secrets()", "the table function duckdb_secrets is withheld"),
        ("SELECT * FROM arrow_scan(1, 2, 3)", "the table function arrow_scan is withheld"),
        ("SELECT * FROM pandas_scan(1)", "the table function pandas_scan is withheld"),
        ("SELECT * FROM information_schema.tables", "information_schema.tables is not a table of this job"),
        ("SELECT * FROM sqlite_master", "sqlite_master is not a table of this job"),
        ("SELECT * FROM memory.main.patients", "memory.main.patients is not a table of this job"),
        ("SELECT getenv('HOME')", "the function getenv is withheld"),
        ("SELECT current_setting('threads')", "the function current_setting is withheld"),
        ("SELECT write_log(name) FROM patients", "the function write_log is withheld"),
        ("SELECT error(name) FROM patients", "the function error is withheld"),
        ("DESCRIBE patients", "show ref is not part of a plain SELECT"),
        ("SHOW TABLES", "show ref is not part of a plain SELECT"),
    ],
)
def test_query_is_refused_with_its_reason(engine, text, reason):
    with pytest.raises(QueryRefusedError) as refusal:
        engine.sql(text)
    assert reason in refusal.value.reasons


@pytest.mark.parametrize(
    "text",
    [
        "SELECT (SELECT max(content) FROM read_text('/etc/passwd')) FROM patients",
        "SELECT * FROM patients WHERE name IN (SELECT content FROM read_text('/etc/passwd'))",
        "WITH p AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM p",
        "SELECT name FROM patients UNION ALL SELECT content FROM read_text('/etc/passwd')",
        "SELECT list_transform([1], x -> (SELECT count(*) FROM read_text('/etc/passwd')))",
        "SELECT * FROM patients ORDER BY (SELECT content FROM read_text('/etc/passwd'))",
        "SELECT * FROM patients LIMIT (SELECT count(*) FROM read_text('/etc/passwd'))",
        "SELECT sum(age) OVER (ORDER BY (SELECT count(*) FROM read_text('/etc/passwd'))) FROM patients",
        "FROM patients JOIN LATERAL (SELECT * FROM read_text('/etc/passwd')) ON true",
        "SELECT count(*) FILTER (WHERE EXISTS (FROM read_text('/etc/passwd'))) FROM patients",
        "VALUES ((SELECT count(*) FROM read_text('/etc/passwd')))",
    ],
)
def test_a_file_hidden_deep_inside_a_query_is_found(engine, text):
    with pytest.raises(QueryRefusedError, match="read_text is withheld"):
        engine.sql(text)


def test_a_refusal_lists_every_reason_once(engine):
    with pytest.raises(QueryRefusedError) as refusal:
        engine.sql("SELECT getenv('A'), getenv('B') FROM read_csv('x'), salaries, glob('*')")
    assert sorted(refusal.value.reasons) == [
        "salaries is not a table of this job",
        "the function getenv is withheld",
        "the table function glob is withheld",
        "the table function read_csv is withheld",
    ]


def test_with_names_end_where_their_query_ends(engine):
    text = "SELECT * FROM (WITH sqlite_master AS (SELECT 1) FROM sqlite_master) a, sqlite_master"
    with pytest.raises(QueryRefusedError, match="sqlite_master is not a table"):
        engine.sql(text)


def test_variables_of_the_running_python_are_invisible(engine):
    salaries = pa.table({"amount": [1]})
    assert salaries.num_rows == 1
    with pytest.raises(QueryRefusedError, match="salaries is not a table of this job"):
        engine.sql("SELECT * FROM salaries")
    # Should the validation ever let it through, the database itself does not see the variable either.
    with pytest.raises(Exception, match="does not exist"):
        engine._connection.execute("SELECT * FROM salaries")


@pytest.mark.parametrize(
    "text",
    [
        "COPY (SELECT 1) TO '{tmp}/x.csv'",
        "SELECT * FROM read_text('/etc/passwd')",
        "ATTACH '{tmp}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET temp_directory = '{tmp}'",
        "SET lock_configuration = false",
        "SET python_enable_replacements = true",
        "SET log_query_path = '{tmp}/queries'",
        "CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'x')",
    ],
)
def test_the_database_itself_is_locked_should_validation_fail(engine, tmp_path, text):
    with pytest.raises(Exception, match=r"disabled|locked|Cannot|not exist|could not"):
        engine._connection.execute(text.format(tmp=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_only_columns_of_the_schema_exist(tmp_path):
    pa.parquet.write_table(PATIENTS, tmp_path / "patients.parquet")
    narrow = ds.dataset(tmp_path / "patients.parquet", schema=pa.schema([("age", pa.int64())]))
    with EmbeddedEngine({"patients": narrow}, memory_limit=1 << 28) as engine:
        assert engine.sql("SELECT * FROM patients").column_names == ["age"]
        with pytest.raises(UsageError, match="name") as failure:
            engine.sql("SELECT name FROM patients")
        assert "patients(age)" in failure.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "SELECT CAST(name AS INTEGER) FROM patients",
        "SELECT CAST(name AS DATE) FROM patients WHERE age > 50",
        "SELECT (SELECT name FROM patients) FROM patients",
        "SELECT age * 9223372036854775807 FROM patients",
        "SELECT strptime(name, '%Y') FROM patients",
        "SELECT json_extract(name, '$.x') FROM patients",
    ],
)
@pytest.mark.parametrize("run", ["sql", "stream"])
def test_errors_quote_no_value_from_the_data(engine, text, run):
    with pytest.raises(QueryFailedError) as failure:
        engine.sql(text) if run == "sql" else engine.stream(text).read_all()
    chain = [failure.value]
    while (earlier := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(earlier)
    told = " ".join(f"{error!r} {error}" for error in chain)
    assert not any(value in told for value in ("Alice", "Bob", "Carol", "41", "52", "67"))
    assert engine.sql("SELECT count(*) AS n FROM patients").to_pylist() == [{"n": 3}]


def test_a_query_that_needs_more_memory_fails_instead_of_spilling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wide = ds.dataset(pa.table({"x": list(range(400_000))}))
    with (
        EmbeddedEngine({"wide": wide}, memory_limit=4 << 20, threads=1) as engine,
        pytest.raises(QueryFailedError, match="more memory"),
    ):
        engine.sql("SELECT a.x, count(*), list(b.x) FROM wide a JOIN wide b USING (x) GROUP BY a.x ORDER BY 3, 1")
    assert list(tmp_path.iterdir()) == []


def test_an_endless_query_ends_at_its_deadline(engine):
    with pytest.raises(QueryTimeoutError, match=r"longer than 0\.3 s"):
        engine.sql(
            "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b", limit=timedelta(seconds=0.3)
        )


def test_interrupt_stops_a_query_from_another_thread(engine):
    timer = threading.Timer(0.3, engine.interrupt)
    timer.start()
    with pytest.raises(QueryFailedError):
        engine.sql("SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b")


@pytest.mark.parametrize("name", ["two words", "", "-first", 'x"; DROP', "a" * 129, "PATIENTS"])
def test_a_table_needs_a_name_of_its_own(name):
    tables = {"patients": ds.dataset(PATIENTS), name: ds.dataset(PATIENTS)}
    with pytest.raises(UsageError, match="cannot name a table"):
        EmbeddedEngine(tables)


def test_columns_that_differ_in_case_alone_are_refused():
    with pytest.raises(UsageError, match="differ in case alone: age"):
        EmbeddedEngine({"t": ds.dataset(pa.table({"age": [1], "Age": [2]}))})


def test_what_is_not_a_dataset_is_refused():
    with pytest.raises(UsageError, match="must be a pyarrow dataset, got Table"):
        EmbeddedEngine({"t": PATIENTS})


def test_a_type_that_sql_cannot_hold_is_named():
    wide = pa.table({"wide": pa.array([None], pa.decimal256(40, 2))})
    with pytest.raises(UsageError, match="table t has a column of a type"):
        EmbeddedEngine({"t": ds.dataset(wide)})


def test_too_little_memory_is_refused():
    with pytest.raises(UsageError, match="at least 1 MiB"):
        EmbeddedEngine({}, memory_limit=1000)


def test_a_query_nested_out_of_reason_is_refused_not_crashed(engine):
    with pytest.raises(StrongroomError):
        engine.sql("SELECT " + "abs(" * 5000 + "1" + ")" * 5000)
    with pytest.raises(UsageError, match="at most"):
        engine.sql("SELECT '" + "x" * (1 << 20) + "'")
