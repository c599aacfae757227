"""All 22 TPC-H queries over encrypted tables give the published answers, row by row.

The tables are encrypted as their owner would, opened with released keys, and queried in the embedded engine at scale
factor 0.1. Answers are those that the specification's generator publishes: order, types and decimals must be equal.
"""

import pytest
from benchmarks.tpch import difference
from benchmarks.warehouse import QUERIES, TABLES, encrypt, tpch_answers, tpch_queries

from strongroom.envelope.table import open_table
from strongroom.workload.embedded import EmbeddedEngine

SCALE = 0.1
pytestmark = pytest.mark.xdist_group("tpch")  # one worker, so that the tables are encrypted once


@pytest.fixture(scope="module")
def estate(tmp_path_factory):
    directory = tmp_path_factory.mktemp("estate")
    return directory, encrypt(SCALE, directory)


@pytest.fixture(scope="module")
def engine(estate):
    directory, encrypted = estate
    tables = {
        table: open_table(directory / f"{table}-encrypted", keys, manifest=manifest)
        for table, (manifest, keys) in encrypted.items()
    }
    with EmbeddedEngine(tables) as engine:
        yield engine


@pytest.fixture(scope="module")
def queries():
    return tpch_queries()


@pytest.fixture(scope="module")
def answers():
    return tpch_answers(SCALE)


@pytest.mark.parametrize("number", QUERIES)
def test_query_over_encrypted_tables_gives_the_published_answer(engine, queries, answers, number):
    assert answers[number].count("\n") > 1
    assert difference(engine.sql(queries[number]), answers[number]) == ""


def test_a_wrong_answer_would_be_noticed(engine, queries, answers):
    result = engine.sql(queries[5])
    assert difference(result, answers[5]) == ""
    assert "rows" in difference(result.slice(1), answers[5])
    assert "row 0" in difference(result.take([1, 0, 2, 3, 4]), answers[5])
    assert "row 4" in difference(result, answers[5].replace("4497840.5466", "4497840.5467"))


def test_nothing_readable_lies_on_disk(estate):
    directory, encrypted = estate
    assert set(encrypted) == set(TABLES)
    words = (b"AUTOMOBILE", b"DELIVER IN PERSON", b"Customer#000000001", b"l_extendedprice", b"PAR1")
    for path in directory.glob("*/*.parquet"):
        content = path.read_bytes()
        assert not any(word in content for word in words), path.name
