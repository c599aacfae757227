"""XGBoost on Spark and LightGBM learn on encrypted data what they learn in the clear, and send nothing in the clear."""

import json
from textwrap import dedent

import numpy as np
import pytest
from learning_world import breast_cancer, learning_world, plain_example, run_example, split_by_columns

from strongroom.errors import StrongroomError

xgboost = pytest.importorskip("xgboost", reason="pip install 'strongroom[learning]'")
pytestmark = pytest.mark.learning


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with learning_world(tmp_path_factory.mktemp("boosting"), tables=split_by_columns(), lease=20) as made:
        yield made


def features_and_finding():
    plain = breast_cancer().to_pandas()
    return plain.drop(columns=["biopsy", "benign"]), plain["benign"]


def test_lightgbm_model_leaves_encrypted_and_is_the_plain_runs_model(world):
    lightgbm = pytest.importorskip("lightgbm")
    report = run_example(world, "lightgbm", engine="embedded")
    plain = plain_example("lightgbm", split_by_columns())
    text = world.fetch_files(report, "model").open("model.txt").readall()
    assert text == plain["model"]["model.txt"]
    assert world.fetch(report, "quality") == plain["quality"].to_pylist()
    values, finding = features_and_finding()
    assert ((lightgbm.Booster(model_str=text.decode()).predict(values) > 0.5) == finding).mean() > 0.99


def test_scikit_learn_example_gives_the_weights_of_the_plain_run(world):
    report = run_example(world, "python-model", engine="embedded")
    plain = plain_example("python-model", split_by_columns())
    found = json.loads(world.fetch_files(report, "model").open("weights.json").readall())
    expected = json.loads(plain["model"]["weights.json"])
    np.testing.assert_allclose(found["weights"], expected["weights"], rtol=1e-9)
    assert world.fetch(report, "quality") == plain["quality"].to_pylist()


@pytest.mark.spark
@pytest.mark.slow
def test_xgboost_on_spark_predicts_exactly_what_plain_xgboost_does(world, tmp_path):
    report = run_example(world, "xgboost-spark", engine="spark")
    (tmp_path / "model.ubj").write_bytes(world.fetch_files(report, "model").open("model.ubj").readall())
    inside = xgboost.Booster(model_file=tmp_path / "model.ubj")
    values, finding = features_and_finding()
    settings = {"n_estimators": 30, "max_depth": 3, "learning_rate": 0.3, "tree_method": "hist", "seed": 7}
    plain = xgboost.XGBClassifier(**settings, n_jobs=1).fit(values, finding)
    found = inside.inplace_predict(values.to_numpy())
    np.testing.assert_allclose(found, plain.predict_proba(values)[:, 1], rtol=1e-6)
    right = int(((found > 0.5) == finding).sum())
    assert world.fetch(report, "quality") == [{"biopsies": 569, "predicted_right": right}]
    assert right >= 560


@pytest.mark.spark
@pytest.mark.slow
def test_xgboost_on_several_workers_is_refused_with_the_reason(world):
    program = dedent("""
        from xgboost.spark import SparkXGBClassifier
        from strongroom.workload import room

        frame = room.read("findings")
        SparkXGBClassifier(features_col=["worst_area"], label_col="benign", num_workers=2).fit(frame)
    """)
    with pytest.raises(StrongroomError, match=r"line 6 of the program.*several workers.*in the clear"):
        world.learn(program, outputs={"model": "files"}, engine="spark", kind="spark", workers=2)


def test_distributed_lightgbm_is_refused_with_the_reason(world):
    program = dedent("""
        import lightgbm
        from strongroom.workload import room

        table = room.read("findings").to_pandas()
        settings = {"machines": "127.0.0.1:12400,127.0.0.1:12401", "objective": "binary", "verbosity": -1}
        lightgbm.train(settings, lightgbm.Dataset(table[["worst_area"]], label=table["benign"]))
    """)
    with pytest.raises(StrongroomError, match=r"line 7 of the program.*several workers.*in the clear"):
        world.learn(program, outputs={"model": "files"})


def test_python_program_has_no_network(world):
    program = dedent("""
        import socket
        import pyarrow as pa
        from strongroom.workload import room

        refused = []
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", 0))
            except PermissionError:
                refused.append("bind")
        try:
            socket.create_connection(("127.0.0.1", 9), timeout=5)
        except PermissionError:
            refused.append("connect")
        except OSError:
            pass
        room.write(pa.table({"refused": refused}), "network")
    """)
    report = world.learn(program, outputs={"network": "table"})
    assert world.fetch(report, "network") == [{"refused": "bind"}, {"refused": "connect"}]
