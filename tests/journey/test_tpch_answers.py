"""All 22 TPC-H queries on encrypted tables give the published answers, row by row.

The answers are those of the benchmark's specification as DuckDB's tpch extension ships them, at scale factor 0.1.
"""

import itertools
import math
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from benchmarks.warehouse import QUERIES, TABLES, tpch_answers, tpch_queries, tpch_source

SCALE = 0.1


@pytest.fixture(scope="module")
def engine():
    import pyarrow.dataset as ds
    from strongroom.workload.embedded import EmbeddedEngine
    with EmbeddedEngine({t: ds.dataset(tpch_source(SCALE)[t]) for t in TABLES}) as e: yield e


@pytest.fixture(scope="module")
def queries():
    return tpch_queries()


@pytest.fixture(scope="module")
def answers():
    return tpch_answers(SCALE)


def published_rows(answer: str, types: list[pa.DataType]) -> list[tuple]:
    lines = answer.rstrip("\n").split("\n")[1:]
    return [tuple(parse(text, kind) for text, kind in zip(line.split("|"), types, strict=True)) for line in lines]


def parse(text: str, kind: pa.DataType) -> object:
    if pa.types.is_integer(kind):
        return int(text)
    if pa.types.is_decimal(kind):
        return Decimal(text)
    if pa.types.is_floating(kind):
        return float(text)
    if pa.types.is_date(kind):
        return date.fromisoformat(text)
    assert pa.types.is_string(kind), f"no rule to compare {kind}"
    return text


def same(got: object, expected: object) -> bool:
    if isinstance(expected, float):
        return math.isclose(got, expected, rel_tol=1e-9)
    return type(got) is type(expected) and got == expected


@pytest.mark.parametrize("number", QUERIES)
def test_query_gives_the_published_answer(engine, queries, answers, number):
    result = engine.sql(queries[number])
    expected = published_rows(answers[number], result.schema.types)
    assert len(expected) > 0
    got = list(zip(*(column.to_pylist() for column in result.columns), strict=True))
    assert len(got) == len(expected)
    for row, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        assert all(itertools.starmap(same, zip(ours, theirs, strict=True))), f"row {row}: {ours} != {theirs}"
