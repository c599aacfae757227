"""All 22 TPC-H queries on Spark, with every protection on and over encrypted tables, give the published answers.

A driver and two executors, each column under its own key, scale factor 0.1. Spark gives averages of decimals with six
digits after the point, so numbers agree to that; everything else, and the order of rows, must be equal.
"""

from __future__ import annotations

import math
from datetime import date

import pytest
from benchmarks._spark_side import protected
from benchmarks.warehouse import QUERIES, tpch_answers, tpch_queries

SCALE = 0.1
pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    session, _, stop = protected(SCALE, tmp_path_factory.mktemp("estate"))
    yield session
    stop()


def agrees(got: object, published: str) -> bool:
    if isinstance(got, str | date):
        return str(got) == published
    return math.isclose(float(got), float(published), rel_tol=1e-6, abs_tol=5e-7)


@pytest.mark.parametrize("number", QUERIES)
def test_query_on_protected_spark_gives_the_published_answer(spark, number):
    rows = spark.sql(tpch_queries()[number]).collect()
    published = [line.split("|") for line in tpch_answers(SCALE)[number].rstrip("\n").split("\n")[1:]]
    assert len(rows) == len(published) > 0
    for place, (row, expected) in enumerate(zip(rows, published, strict=True)):
        assert all(agrees(got, text) for got, text in zip(row, expected, strict=True)), (place, row, expected)
