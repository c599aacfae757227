"""A program tries to leave what it read in plaintext, by every way of writing that Spark and Python offer."""

from __future__ import annotations

import pathlib

import pytest

from strongroom.workload.confinement import landlock_abi

pytestmark = pytest.mark.spark

MARK = "ZQXJK-confidential-8841"


@pytest.fixture
def frame(spark_room):
    return spark_room.session.range(20).selectExpr(f"concat('{MARK}', id) as s")


def refused(act) -> str:
    with pytest.raises(Exception) as caught:  # Java's own errors arrive as Py4JJavaError
        act()
    java = getattr(caught.value, "java_exception", None)
    return java.toString() + "".join(str(cause) for cause in causes(java)) if java is not None else str(caught.value)


def causes(java):
    while java is not None:
        yield java.toString()
        java = java.getCause()


@pytest.mark.parametrize("form", ["csv", "json", "text", "orc", "parquet"])
@pytest.mark.parametrize("place", ["outbox", "disk", "inputs"])
def test_plaintext_file_is_refused(spark_room, frame, form, place):
    target = getattr(spark_room, place) / f"plain-{form}"
    assert "refused to" in refused(lambda: frame.write.format(form).save(f"file://{target}"))
    assert traces(spark_room) == []


def test_text_by_way_of_an_rdd_is_refused(spark_room, frame):
    target = spark_room.outbox / "rdd"
    assert "refused to" in refused(lambda: frame.rdd.map(lambda row: row.s).saveAsTextFile(f"file://{target}"))
    assert traces(spark_room) == []


def test_a_column_without_a_key_is_not_written_at_all(spark_room, frame):
    target = spark_room.outbox / "no-key"
    said = refused(
        lambda: spark_room.driver.write_encrypted(
            frame.selectExpr("s as other"), target, dataset="output.result", version=1
        )
    )
    assert "no key output.result@1/column/other" in said
    assert traces(spark_room) == []


@pytest.mark.parametrize(
    "options",
    [
        {"parquet.crypto.factory.class": ""},
        {"parquet.crypto.factory.class": "org.apache.parquet.crypto.keytools.PropertiesDrivenCryptoFactory"},
        {
            "parquet.crypto.factory.class": "org.apache.parquet.crypto.keytools.PropertiesDrivenCryptoFactory",
            "parquet.encryption.footer.key": "output.result@1/footer",
            "parquet.encryption.column.keys": "output.result@1/column/id:id",
        },
    ],
)
def test_options_do_not_bring_back_the_stock_factory(spark_room, frame, options):
    two = frame.selectExpr("s", "1 as id")
    target = spark_room.outbox / f"stock-{len(options)}-{len(options['parquet.crypto.factory.class'])}"
    writer = two.write.options(**options)
    said = refused(lambda: writer.parquet(f"file://{target}"))
    assert any(words in said for words in ("refused to", "own crypto factory", "Class  not found"))
    assert traces(spark_room) == []


def test_another_file_system_is_out_of_reach(spark_room, frame):
    for address in ("hdfs://10.0.0.1:8020/x", "webhdfs://10.0.0.1/x", "ftp://10.0.0.1/x", "s3a://bucket/x"):
        assert "refused to reach" in refused(lambda address=address: frame.write.csv(address))


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_python_function_cannot_open_a_file_to_write(spark_room, frame):
    targets = [
        str(spark_room.outbox / "udf.txt"),
        str(spark_room.disk / "udf.txt"),
        "/tmp/strongroom-udf.txt",
        "/dev/shm/x.txt",
    ]

    def leak(row):
        said = []
        for target in targets:
            try:
                pathlib.Path(target).write_text(row.s)
                said.append(f"wrote {target}")
            except OSError as error:
                said.append(type(error).__name__)
        return said

    assert {word for words in frame.rdd.map(leak).collect() for word in words} == {"PermissionError"}
    assert traces(spark_room) == []


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_java_of_the_driver_cannot_write_around_hadoop(spark_room):
    jvm = spark_room.session.sparkContext._jvm
    path = jvm.java.nio.file.Path.of(
        str(spark_room.disk / "around.txt"), spark_room.session.sparkContext._gateway.new_array(jvm.String, 0)
    )
    options = spark_room.session.sparkContext._gateway.new_array(jvm.java.nio.file.OpenOption, 0)
    assert "AccessDenied" in refused(lambda: jvm.java.nio.file.Files.writeString(path, MARK, options))
    assert traces(spark_room) == []


def traces(room) -> list[str]:
    """Return the files on disk that hold the mark in plaintext."""
    return [str(path) for path in room.disk.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]
