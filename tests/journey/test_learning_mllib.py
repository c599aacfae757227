"""Spark MLlib gives the same numbers on two owners' encrypted data, on two attested workers, as plain Spark does."""

from textwrap import dedent

import pytest
from learning_world import breast_cancer, learning_world, plain_example, run_example, split_by_columns, stock_spark
from small_world import _custody

from strongroom.envelope.manifest import unwrap_data_key
from strongroom.workload.files import unpack

pytest.importorskip("sklearn", reason="pip install 'strongroom[learning]'")
# One worker process runs all of it: the two fixtures start Spark twice and take minutes.
pytestmark = [pytest.mark.learning, pytest.mark.spark, pytest.mark.slow, pytest.mark.xdist_group("mllib")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The example inside and outside; the numbers, the files of its model, and the job's report."""
    with learning_world(tmp_path_factory.mktemp("mllib"), tables=split_by_columns(), lease=20) as world:
        report = run_example(world, "mllib", engine="spark")
        inside = world.fetch(report, "numbers")
        files = world.fetch_files(report, "model")
        model = {name: files.open(name).readall() for name in files}
        loaded = predict_in_a_second_job(world, files, tmp_path_factory.mktemp("model"))
    with stock_spark() as spark:
        plain = plain_example("mllib", split_by_columns(), spark=spark)
        yield inside, model, plain, spark, loaded


LOAD = dedent("""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F
    from strongroom.workload import room

    model = room.load("model")
    predicted = model.transform(room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy)"))
    room.write(predicted.select("biopsy", vector_to_array("probability")[1].alias("chance")), "predicted")
""")


def predict_in_a_second_job(world, files, place):
    """Make the model a dataset of the hospital's, and let a second job on Spark load it."""
    (place / "model").mkdir()
    unpack(files, place / "model")
    home, custody = world.owners["hospital"], _custody()
    manifest = home.owner.encrypt_files(place / "model", place / "kept", dataset="model", version=1, custody=custody)
    text = world.policy(home, programs=[LOAD.encode()]).replace('dataset = "biopsies"', 'dataset = "model"')
    dek = unwrap_data_key(manifest, custody=custody)
    home.broker.register_dataset(manifest.statement, dek, home.owner.permit(text), home.owner.key)
    world.permit_all(programs=[LOAD.encode()])
    inputs = {one.dataset: (name, one.encrypted) for name, one in world.owners.items()}
    inputs["model"] = ("hospital", place / "kept")
    shape = {"kind": "spark", "outputs": {"predicted": "table"}, "inputs": inputs, "workers": 2}
    report = world.run(world.write_job("load", program=LOAD, **shape), engine="spark")
    rows = world.fetch(report, "predicted")
    return [row["chance"] for row in sorted(rows, key=lambda row: row["biopsy"])]


def numbers(rows, algorithm):
    return {row["measure"]: row["value"] for row in rows if row["algorithm"] == algorithm}


@pytest.mark.parametrize(
    "algorithm",
    [
        "linear regression",
        "logistic regression",
        "random forest",
        "gradient-boosted trees",
        "k-means",
        "Gaussian mixture",
        "LDA",
        "ALS",
        "cross-validation",
    ],
)
def test_algorithm_gives_the_numbers_of_the_plain_run(runs, algorithm):
    inside, _, plain, _, _ = runs
    found, expected = numbers(inside, algorithm), numbers(plain["numbers"].to_pylist(), algorithm)
    assert len(expected) >= 1
    # ALS and LDA add up single-precision or shuffled numbers, in the order in which they arrive.
    assert found == pytest.approx(expected, rel=1e-5 if algorithm in {"ALS", "LDA"} else 1e-9)


def test_pipeline_that_left_as_files_predicts_what_the_plain_one_predicts_outside_and_in_a_second_job(runs, tmp_path):
    from strongroom.workload.spark.models import load_model

    _, model, plain, spark, loaded = runs
    assert {"metadata", "model-card.json"} < set(model)
    predicted = []
    for number, files in enumerate((model, plain["model"])):
        for name, data in files.items():
            target = tmp_path / str(number) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        pipeline = load_model(spark, tmp_path / str(number))
        frame = spark.createDataFrame(breast_cancer().to_pandas())
        predicted.append([row.probability[1] for row in pipeline.transform(frame).orderBy("biopsy").collect()])
    assert len(predicted[0]) == 569
    assert predicted[0] == pytest.approx(predicted[1], rel=1e-9)
    assert loaded == pytest.approx(predicted[1], rel=1e-9)
