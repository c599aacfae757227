"""Storage serves other files than the owner signed: older, exchanged, plain, or with one bit changed."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.envelope.table import describe_schema, write_table
from strongroom.errors import EnvelopeError

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def table(value: int) -> pa.Table:
    return pa.table({"id": pa.array([value] * 50, pa.int64())})


def failure(act) -> str:
    with pytest.raises(Exception) as caught:
        act()
    java, said = getattr(caught.value, "java_exception", None), str(caught.value)
    while java is not None:
        said += java.toString()
        java = java.getCause()
    return said


def exchange(spark_room, name: str):
    """Publish two files and return a frame over them that was checked, and the two paths."""
    directory = spark_room.inputs / name
    (one,) = write_table(table(1), directory, spark_room.keys)
    (other,) = write_table(table(2), directory.with_name(name + "-other"), spark_room.keys)
    second = directory / "part-00001.parquet"
    (directory.with_name(name + "-other") / other.path).rename(second)
    entry = type(other)(
        path=second.name, size=other.size, sha256=other.sha256, footer_digest=other.footer_digest, rows=50
    )
    manifest = spark_room.sign([one, entry], describe_schema(table(1).schema), directory)
    return directory, manifest, directory / one.path, second


def test_two_valid_files_that_changed_places_are_refused(spark_room):
    directory, manifest, first, second = exchange(spark_room, "places")
    frame = spark_room.driver.read_encrypted(manifest, directory, ["id"])
    assert frame.count() == 100
    swap = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(swap)
    assert "footer is not the one in the manifest" in failure(lambda: frame.agg({"id": "sum"}).collect())


def test_a_valid_file_served_twice_is_refused(spark_room):
    directory, manifest, first, second = exchange(spark_room, "twice")
    frame = spark_room.driver.read_encrypted(manifest, directory, ["id"])
    second.write_bytes(first.read_bytes())
    assert "refused to open" in failure(lambda: frame.agg({"id": "sum"}).collect())


def test_a_plain_file_in_the_place_of_an_encrypted_one_is_refused(spark_room):
    directory, manifest, first, _ = exchange(spark_room, "plain")
    frame = spark_room.driver.read_encrypted(manifest, directory, ["id"])
    size = first.stat().st_size
    pq.write_table(table(7), first, compression="none")
    content = first.read_bytes()
    padding = size - len(content)
    first.write_bytes(content[:4] + bytes(max(0, padding)) + content[4:])
    assert "refused to open" in failure(lambda: frame.agg({"id": "sum"}).collect())


def test_one_changed_bit_of_a_data_page_is_noticed(spark_room):
    directory, manifest, first, _ = exchange(spark_room, "bit")
    frame = spark_room.driver.read_encrypted(manifest, directory, ["id"])
    content = bytearray(first.read_bytes())
    content[40] ^= 1
    first.write_bytes(content)
    assert "tag" in failure(lambda: frame.agg({"id": "sum"}).collect()).lower()


def test_a_file_too_many_is_refused_before_any_read(spark_room):
    directory, manifest, first, _ = exchange(spark_room, "more")
    (directory / "part-00002.parquet").write_bytes(first.read_bytes())
    with pytest.raises(EnvelopeError, match="besides"):
        spark_room.driver.read_encrypted(manifest, directory, ["id"])


def test_a_program_reads_no_undeclared_encrypted_file(spark_room):
    directory, _, _, _ = exchange(spark_room, "undeclared")
    assert "not a declared input file" in failure(lambda: spark_room.session.read.parquet(str(directory)).collect())


def test_a_program_reads_no_file_of_the_host(spark_room):
    assert "refused to read" in failure(lambda: spark_room.session.read.text("file:///etc/passwd").collect())


def test_an_option_does_not_bring_back_the_stock_reader(spark_room):
    _, _, first, _ = exchange(spark_room, "stock")
    stock = {"parquet.crypto.factory.class": "org.apache.parquet.crypto.keytools.PropertiesDrivenCryptoFactory"}
    said = failure(lambda: spark_room.session.read.options(**stock).parquet(str(first)).collect())
    assert "own crypto factory" in said
