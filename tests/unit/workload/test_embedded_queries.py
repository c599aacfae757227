"""The embedded engine answers ordinary SQL over datasets, whole or as a stream."""

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from strongroom.errors import UsageError
from strongroom.workload.embedded import EmbeddedEngine


@pytest.fixture
def engine(tmp_path):
    numbers = pa.table({"n": pa.array(range(300_000), pa.int64()), "word": [f"w{i % 7}" for i in range(300_000)]})
    pq.write_table(numbers, tmp_path / "numbers.parquet", row_group_size=50_000)
    words = pa.table({"word": ["w1", "w2"], "meaning": ["one", "two"]})
    tables = {"numbers": ds.dataset(tmp_path / "numbers.parquet"), "words": ds.dataset(words)}
    with EmbeddedEngine(tables, memory_limit=1 << 29, threads=2) as engine:
        yield engine


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT count(*) AS c FROM numbers WHERE n < 10", [{"c": 10}]),
        (
            "SELECT meaning, count(*) AS c FROM numbers JOIN words USING (word) GROUP BY ALL ORDER BY 1",
            [{"meaning": "one", "c": 42_857}, {"meaning": "two", "c": 42_857}],
        ),
        ("WITH a AS (SELECT max(n) AS m FROM numbers), b AS (FROM a) SELECT m FROM B", [{"m": 299_999}]),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r WHERE x < 3) SELECT sum(x) AS s FROM r",
            [{"s": 6}],
        ),
        ("SELECT n FROM Numbers ORDER BY n DESC NULLS LAST LIMIT 1 OFFSET 1", [{"n": 299_998}]),
        ("SELECT DISTINCT word FROM numbers WHERE word LIKE '%6'", [{"word": "w6"}]),
        ("SELECT n FROM numbers WHERE n IN (1, 2) EXCEPT SELECT 1", [{"n": 2}]),
        ("SELECT x FROM (VALUES (1), (2)) v(x) WHERE x > 1", [{"x": 2}]),
        ("SELECT sum(range)::BIGINT AS s FROM range(4)", [{"s": 6}]),
        ("SELECT unnest([1, 2]) AS u", [{"u": 1}, {"u": 2}]),
        (
            "SELECT * FROM (PIVOT words ON word IN ('w1') USING count(*)) ORDER BY meaning",
            [{"meaning": "one", "w1": 1}, {"meaning": "two", "w1": 0}],
        ),
        ("SELECT n, lag(n) OVER (ORDER BY n) AS before FROM numbers QUALIFY n = 5", [{"n": 5, "before": 4}]),
        ("SELECT CASE WHEN n BETWEEN 1 AND 2 THEN 'low' ELSE 'high' END AS k FROM numbers WHERE n = 2", [{"k": "low"}]),
        ("SELECT sum(n)::BIGINT AS s FROM numbers GROUP BY GROUPING SETS (())", [{"s": 44_999_850_000}]),
    ],
)
def test_ordinary_sql_is_answered(engine, text, rows):
    assert engine.sql(text).to_pylist() == rows
    assert engine.stream(text).read_all().to_pylist() == rows


def test_a_stream_brings_every_row_in_batches(engine):
    sizes = [batch.num_rows for batch in engine.stream("SELECT n FROM numbers")]
    assert sum(sizes) == 300_000
    assert len(sizes) > 1


def test_a_displaced_stream_raises_and_never_ends_early(engine):
    stream = engine.stream("SELECT n FROM numbers")
    stream.read_next_batch()
    engine.sql("SELECT 1")
    with pytest.raises(UsageError, match="another query began"):
        stream.read_all()


def test_a_closed_engine_ends_its_streams(engine):
    stream = engine.stream("SELECT n FROM numbers")
    engine.close()
    with pytest.raises(UsageError, match="another query began"):
        stream.read_all()


def test_columns_and_filters_reach_the_scan(engine):
    plan = engine.explain("SELECT word FROM numbers WHERE n = 7")
    scan = plan[plan.index("ARROW_SCAN") :]
    assert "n=7" in scan
    assert "word" in scan
    assert "FILTER" not in plan.replace("Filters", "")


def test_tables_are_at_hand_as_datasets(engine):
    assert engine.tables == ("numbers", "words")
    assert engine.table("words").to_table().num_rows == 2
    with pytest.raises(UsageError, match="no table 'salaries'"):
        engine.table("salaries")


@pytest.mark.parametrize(
    "text", ["SELEC 1", "SELECT FROM WHERE", "SELECT nothing FROM numbers", "SELECT nofunction(1)"]
)
def test_a_wrong_query_is_explained_in_its_own_words(engine, text):
    with pytest.raises(UsageError) as failure:
        engine.sql(text)
    assert failure.value.exit_code == 2
    assert failure.value.hint
