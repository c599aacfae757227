"""Two owners with the same measurements of different patients learn one model, which comes in versions."""

from contextlib import closing
from textwrap import dedent

import numpy as np
import pytest
from learning_world import diabetes, learning_world, split_by_rows

xgboost = pytest.importorskip("xgboost", reason="pip install -r requirements-learning.lock")
pytestmark = pytest.mark.learning

TRAIN = dedent("""
    import json
    import xgboost
    from sklearn.linear_model import LinearRegression
    from strongroom.workload import room

    both = room.sql("SELECT * FROM biopsies UNION ALL SELECT * FROM findings ORDER BY patient").to_pandas()
    values, progression = both.drop(columns=["patient", "progression"]), both["progression"]
    linear = LinearRegression().fit(values, progression)
    boosted = xgboost.XGBRegressor(n_estimators=20, max_depth=3, n_jobs=1, seed=7).fit(values, progression)
    place = room.scratch()
    boosted.save_model(place / "boosted.ubj")
    (place / "linear.json").write_text(json.dumps({"weights": linear.coef_.tolist(), "at": linear.intercept_}))
    room.save(place, "model", card={"patients": len(both)})
""")
LOAD = dedent("""
    import xgboost
    import pyarrow as pa
    from strongroom.workload import room

    model = xgboost.XGBRegressor()
    model.load_model(room.open("model").unpack() / "boosted.ubj")
    table = room.sql("SELECT * FROM biopsies ORDER BY patient").to_pandas()
    expected = model.predict(table.drop(columns=["patient", "progression"]))
    room.write(pa.table({"patient": table["patient"], "progression": expected}), "expected")
""")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with learning_world(tmp_path_factory.mktemp("rows"), tables=split_by_rows()) as made:
        yield made


@pytest.fixture(scope="module")
def files(world):
    return world.fetch_files(world.learn(TRAIN, outputs={"model": "files"}), "model")


def plain():
    table = diabetes().to_pandas()
    return table.drop(columns=["patient", "progression"]), table["progression"]


def test_both_models_are_those_of_all_patients_together(files, tmp_path):
    import json

    from sklearn.linear_model import LinearRegression

    values, progression = plain()
    linear = LinearRegression().fit(values, progression)
    np.testing.assert_allclose(json.loads(files.open("linear.json").readall())["weights"], linear.coef_, rtol=1e-9)
    (tmp_path / "boosted.ubj").write_bytes(files.open("boosted.ubj").readall())
    found = xgboost.XGBRegressor()
    found.load_model(tmp_path / "boosted.ubj")
    expected = xgboost.XGBRegressor(n_estimators=20, max_depth=3, n_jobs=1, seed=7).fit(values, progression)
    assert found.predict(values).tolist() == expected.predict(values).tolist()


def test_model_taken_out_is_registered_in_versions_and_loaded_in_a_job(world, files, tmp_path):
    from small_world import _custody

    from strongroom.envelope.manifest import unwrap_data_key
    from strongroom.workload.files import unpack

    source = tmp_path / "taken"
    source.mkdir()
    unpack(files, source)
    home, custody = world.owners["hospital"], _custody()
    text = world.policy(home, programs=[LOAD.encode()]).replace('dataset = "biopsies"', 'dataset = "model"')
    for version in (1, 2):
        target = tmp_path / f"model-{version}"
        manifest = home.owner.encrypt_files(source, target, dataset="model", version=version, custody=custody)
        dek = unwrap_data_key(manifest, custody=custody)
        with closing(home.owner.attest_broker(world.broker_url)) as broker:
            broker.register_dataset(manifest.statement, dek, home.owner.permit(text), home.owner.key)
    for name in world.owners:
        world.permit(name, programs=[LOAD.encode()])
    inputs = {one.dataset: (name, one.encrypted) for name, one in world.owners.items()}
    inputs["model"] = ("hospital", tmp_path / "model-2")
    report = world.run(world.write_job("load", program=LOAD, outputs={"expected": "table"}, inputs=inputs))
    values, progression = plain()
    model = xgboost.XGBRegressor(n_estimators=20, max_depth=3, n_jobs=1, seed=7).fit(values, progression)
    rows = world.fetch(report, "expected")
    assert [row["progression"] for row in rows] == model.predict(values)[:200].tolist()
    (entry,) = [one for one in world.entries("output") if one.facts["digest"] == report.outputs[0]["digest"]]
    assert {"dataset": "model", "version": 2} in [
        {"dataset": one["dataset"], "version": one["version"]} for one in entry.facts["lineage"]
    ]
    inputs["model"] = ("hospital", tmp_path / "model-1")
    with pytest.raises(Exception, match="holds model@1, the released keys are of model@2"):
        world.run(world.write_job("load", program=LOAD, outputs={"expected": "table"}, inputs=inputs))
