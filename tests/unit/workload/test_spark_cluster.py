"""A Spark cluster of a driver and two executors does what Spark does, and shows its secret to nobody."""

from __future__ import annotations

import base64
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.envelope.parquet_crypto import decryption
from strongroom.envelope.table import describe_schema, write_table
from strongroom.errors import EnvelopeError
from strongroom.workload.spark.settings import verify_spark_conf
from strongroom.workload.spark.tables import describe_written

pytestmark = pytest.mark.spark


def trips(rows: int, *, start: int = 0) -> pa.Table:
    ids = range(start, start + rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "fare": pa.array([None if i % 7 == 0 else i * 0.5 for i in ids], pa.float64()),
            "name": pa.array([f"passenger {i}" for i in ids]),
            "tags": pa.array([[f"t{i % 3}"] * (i % 4) for i in ids], pa.list_(pa.string())),
        }
    )


def test_two_executors_share_a_shuffle(spark_room):
    frame = spark_room.session.range(100_000, numPartitions=4).selectExpr("id % 10 as g", "id")
    counts = {row.g: row["count"] for row in frame.groupBy("g").count().collect()}
    assert counts == dict.fromkeys(range(10), 10_000)
    assert spark_room.driver.executors() == ("1", "2")


def test_python_functions_run_on_both_executors(spark_room):
    pids = spark_room.session.sparkContext.parallelize(range(8), 8).map(lambda _: __import__("os").getppid()).collect()
    assert len(set(pids)) == 2


def test_secret_stands_in_no_argument_environment_setting_or_file(spark_room):
    spark_room.session.sparkContext.parallelize(range(4), 4).map(lambda x: x).count()
    secret = spark_room.secret
    spellings = [secret, secret.hex().encode(), base64.b64encode(secret)]
    places: dict[str, bytes] = {"conf": repr(spark_room.session.sparkContext.getConf().getAll()).encode()}
    tree = [spark_room.driver.pid, *(executor.pid for executor in spark_room.executors.values())]
    tree += [child for pid in tree for child in descendants(pid)]
    assert len(tree) > 5  # three Java machines and Python workers
    for pid in tree:
        for name in ("cmdline", "environ"):
            places[f"{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    for scratch in spark_room.scratches:
        places.update({str(path): path.read_bytes() for path in scratch.rglob("*") if path.is_file()})
    shown = [place for place, content in places.items() if any(spelling in content for spelling in spellings)]
    assert shown == []


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = sorted({int(c) for thread in threads for c in (thread / "children").read_text().split()} | set(children))
    return children + [deeper for child in children for deeper in descendants(child)]


def test_final_check_holds_on_the_running_cluster(spark_room):
    verify_spark_conf(dict(spark_room.session.sparkContext.getConf().getAll()), secret=spark_room.secret)


def test_owner_files_read_the_same_in_spark(spark_room):
    table = trips(5_000)
    directory, manifest = spark_room.publish(table, "same")
    frame = spark_room.driver.read_encrypted(manifest, directory, ["id", "fare", "tags"])
    rows = [row.asDict() for row in frame.orderBy("id").collect()]
    assert rows == table.select(["id", "fare", "tags"]).to_pylist()


def test_withheld_column_has_no_key_and_the_others_read(spark_room):
    directory, manifest = spark_room.publish(trips(100), "withheld")
    read = spark_room.driver.read_encrypted(manifest, directory, ["id", "fare"])
    assert read.count() == 100
    with pytest.raises(Exception, match="name"):
        spark_room.driver.read_encrypted(manifest, directory, ["id", "name"]).collect()


def test_spark_output_opens_with_the_output_keys_elsewhere(spark_room):
    source = spark_room.session.range(1000).selectExpr(
        "id", "cast(id as double) / 4 as fare", "array('a', 'b') as tags"
    )
    target = spark_room.outbox / "result"
    spark_room.driver.write_encrypted(source, target, dataset="output.result", version=1)
    names = sorted(path.name for path in target.iterdir())
    assert names
    assert all(name.endswith(".parquet") for name in names)
    tables = [
        pq.ParquetFile(path, decryption_properties=decryption(spark_room.output)).read()
        for path in sorted(target.iterdir())
    ]
    assert pa.concat_tables(tables).sort_by("id").column("fare").to_pylist() == [i / 4 for i in range(1000)]
    entries = describe_written(target, spark_room.output)
    assert sum(entry.rows for entry in entries) == 1000
    metadata = pq.read_metadata(target / names[0], decryption_properties=decryption(spark_room.output))
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_description_of_an_output_refuses_a_foreign_file(spark_room):
    target = spark_room.outbox / "foreign"
    spark_room.driver.write_encrypted(spark_room.session.range(10), target, dataset="output.result", version=1)
    pq.write_table(pa.table({"id": [1]}), target / "part-9.parquet")
    with pytest.raises(EnvelopeError, match="encrypted Parquet footer"):
        describe_written(target, spark_room.output)


def test_many_files_of_one_dataset_read_as_one_table(spark_room):
    directory = spark_room.inputs / "many"
    entries = list(write_table(trips(10), directory, spark_room.keys))
    for number in range(1, 6):
        (entry,) = write_table(trips(10, start=number * 10), directory.with_name(f"many-{number}"), spark_room.keys)
        renamed = f"part-{number:05}.parquet"
        (directory.with_name(f"many-{number}") / entry.path).rename(directory / renamed)
        entries.append(
            type(entry)(path=renamed, **{k: getattr(entry, k) for k in ("size", "sha256", "footer_digest", "rows")})
        )
    manifest = spark_room.sign(
        sorted(entries, key=lambda entry: entry.path), describe_schema(trips(1).schema), directory
    )
    frame = spark_room.driver.read_encrypted(manifest, directory, ["id"])
    assert sorted(row.id for row in frame.collect()) == list(range(60))


@pytest.mark.slow
def test_killed_executor_is_noticed_and_another_one_finishes_the_job(spark_room):
    lost = min(spark_room.executors)
    session = spark_room.session
    answers: list[int] = []

    def work() -> None:
        slow = session.sparkContext.parallelize(range(12), 12).map(lambda x: (__import__("time").sleep(0.5), x)[1])
        answers.append(slow.map(lambda x: (x % 2, x)).reduceByKey(lambda a, b: a + b).values().sum())

    job = threading.Thread(target=work)
    job.start()
    time.sleep(1.0)
    spark_room.executors.pop(lost).kill()
    newcomer = max(spark_room.executors) + 1
    spark_room.add_executor(newcomer)
    job.join(90)
    assert answers == [66]
    spark_room.driver.wait_executors(2, deadline=60)
    assert str(lost) not in spark_room.driver.executors()
    assert str(newcomer) in spark_room.driver.executors()


def test_frames_travel_between_python_and_spark(spark_room):
    import pandas as pd

    frame = spark_room.session.createDataFrame(pd.DataFrame({"g": [1, 1, 2], "x": [1.0, 2.0, 5.0]}))
    doubled = frame.mapInPandas(lambda parts: (part.assign(x=part.x * 2) for part in parts), "g long, x double")
    found = doubled.groupBy("g").sum("x").toPandas().sort_values("g")
    assert found["sum(x)"].tolist() == [6.0, 10.0]


@pytest.mark.slow
def test_machine_learning_runs_on_the_executors(spark_room):
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import VectorAssembler

    rows = spark_room.session.range(200).selectExpr(
        "double(id) as x", "double(id % 5) as y", "double(id > 100) as label"
    )
    data = VectorAssembler(inputCols=["x", "y"], outputCol="features").transform(rows)
    model = LogisticRegression(maxIter=5).fit(data)
    assert model.summary.accuracy > 0.9


def test_temporary_views_and_sql_work_and_stay_in_memory(spark_room):
    spark_room.session.range(10).createOrReplaceTempView("ten")
    assert spark_room.session.sql("select sum(id) from ten").first()[0] == 45
    assert not (Path.cwd() / "spark-warehouse").exists()
    assert not (Path.cwd() / "artifacts").exists()
