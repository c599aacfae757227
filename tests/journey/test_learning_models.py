"""A model is a dataset: owned by whom the policies say, used in jobs, and taken out by nobody who may not."""

from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from learning_world import breast_cancer, learning_world, split_by_columns
from small_world import PURPOSE

from strongroom.attestation.roles import Role
from strongroom.digests import bytes_digest
from strongroom.errors import RefusedError, StrongroomError
from strongroom.policy.template import policy_template

pytest.importorskip("lightgbm", reason="pip install 'strongroom[learning]'")
pytestmark = pytest.mark.learning

TRAIN = dedent("""
    import lightgbm
    from strongroom.workload import room

    table = room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy) ORDER BY biopsy").to_pandas()
    features = [name for name in table if name not in ("biopsy", "benign")]
    settings = {"objective": "binary", "num_leaves": 4, "deterministic": True, "num_threads": 1, "verbosity": -1}
    model = lightgbm.train(settings, lightgbm.Dataset(table[features], label=table["benign"]), num_boost_round=10)
    room.save({"model.txt": model.model_to_string()}, "tumour-model", card={"features": features})
""")
PREDICT = dedent("""
    import json
    import lightgbm
    import pyarrow as pa
    from strongroom.workload import room

    files = room.open("tumour-model")
    card = json.loads(files["model-card.json"].read())
    model = lightgbm.Booster(model_file=str(files.unpack() / "model.txt"))
    table = room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy) ORDER BY biopsy").to_pandas()
    chance = model.predict(table[card["said"]["features"]])
    room.write(pa.table({"biopsy": table["biopsy"], "benign": chance}), "predicted")
""")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with learning_world(tmp_path_factory.mktemp("models"), tables=split_by_columns()) as made:
        yield made


@pytest.fixture(scope="module")
def trained(world):
    """A model that stays inside; every owner says that it is the hospital's."""
    shape = {"outputs": {"tumour-model": "kept-files"}, "recipients": ("hospital",)}
    return world.learn(TRAIN, keeper="hospital", takers=(), **shape)


def model_policy(world, *, version=1, analysts=("analyst",), program=PREDICT):
    hospital = world.owners["hospital"].owner
    return hospital.permit(
        policy_template(
            dataset="tumour-model",
            owner=hospital.key.party,
            analysts=[world.analyst.key.party] if "analyst" in analysts else [],
            purposes=[PURPOSE],
            expires=datetime(2099, 1, 1, tzinfo=UTC),
            version=version,
            approved=[bytes_digest(program.encode())],
            measurements={str(role): [world.measurements[role]] for role in (Role.DRIVER, Role.WORKER, Role.EGRESS)},
            recipients=[world.analyst.key.party],
            allow_simulated=True,
        )
    )


def place_of(report):
    return Path(report.outputs[0]["directory"]), report.outputs[0]["id"]


@pytest.fixture(scope="module")
def adopted(world, trained):
    home = world.owners["hospital"]
    directory, output = place_of(trained)
    home.owner.adopt(output, directory, policy=model_policy(world), broker=home.broker)
    return directory


def predict(world, directory):
    for name in world.owners:
        world.permit(name, programs=[PREDICT.encode()])
    inputs = {home.dataset: (name, home.encrypted) for name, home in world.owners.items()}
    inputs["tumour-model"] = ("hospital", directory)
    return world.run(world.write_job("predict", program=PREDICT, outputs={"predicted": "table"}, inputs=inputs))


def test_nobody_takes_out_a_model_that_stays_inside(world, trained):
    with pytest.raises(StrongroomError, match="does not know this caller"):
        world.fetch_files(trained, "tumour-model")
    hospital = replace_party(world, "hospital")
    with pytest.raises(RefusedError) as caught:
        world.fetch_files(trained, "tumour-model", by=hospital)
    assert "stays inside" in caught.value.reasons[0]


def replace_party(world, name):
    from strongroom.parties.analyst import Analyst

    owner = world.owners[name].owner
    return Analyst(owner.key, owner.kem, trust=owner.trust, memory=owner.memory)


def test_only_the_owner_that_the_policies_name_adopts_exactly_the_files_that_egress_passed(world, trained, tmp_path):
    import shutil

    directory, output = place_of(trained)
    laboratory = world.owners["laboratory"]
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    with pytest.raises(StrongroomError, match=r"ConflictError|has no output"):
        laboratory.owner.adopt(output, copy, policy=model_policy(world), broker=laboratory.broker)
    # The storage gives the hospital another model, which looks as well signed: of a second run of the same program.
    again = world.learn(
        TRAIN, keeper="hospital", takers=(), outputs={"tumour-model": "kept-files"}, recipients=("hospital",)
    )
    other = tmp_path / "other"
    shutil.copytree(place_of(again)[0], other)
    home = world.owners["hospital"]
    with pytest.raises(StrongroomError, match="the manifest is signed by"):
        home.owner.adopt(output, other, policy=model_policy(world), broker=home.broker)


def test_ledger_leads_from_the_model_to_the_data_it_was_made_from(world, trained, adopted):
    (made,) = [one for one in world.entries("output") if one.facts["output"] == trained.outputs[0]["id"]]
    (registered,) = [one for one in world.entries("dataset") if one.facts["dataset"] == "tumour-model"]
    assert registered.facts["output"] == made.facts["output"]
    assert registered.facts["card"] == made.facts["card"]
    assert registered.facts["owner"].startswith("hospital:")
    assert made.facts["kept"] == "tumour-model@1"
    assert {one["dataset"] for one in made.facts["lineage"]} == {"biopsies", "findings"}
    assert made.facts["program"] == bytes_digest(TRAIN.encode())


def test_analyst_uses_the_model_in_a_job_and_gets_the_plain_runs_predictions(world, adopted):
    import lightgbm

    rows = world.fetch(predict(world, adopted), "predicted")
    plain = breast_cancer().to_pandas()
    features = [name for name in plain if name not in ("biopsy", "benign")]
    settings = {"objective": "binary", "num_leaves": 4, "deterministic": True, "num_threads": 1, "verbosity": -1}
    model = lightgbm.train(settings, lightgbm.Dataset(plain[features], label=plain["benign"]), num_boost_round=10)
    np.testing.assert_allclose([row["benign"] for row in rows], model.predict(plain[features]), rtol=1e-9)


def test_model_stays_inside_only_if_the_policies_agree_whose_it_is(world, trained):
    with pytest.raises(RefusedError) as caught:
        world.learn(TRAIN, outputs={"tumour-model": "kept-files"}, recipients=("hospital",), takers=())
    assert "name no one owner" in caught.value.reasons[0]
    with pytest.raises(RefusedError) as caught:
        world.learn(TRAIN, outputs={"tumour-model": "kept-files"}, keeper="hospital", takers=("analyst",))
    assert "goes to its owner alone" in caught.value.reasons[0]


def test_after_its_owner_revoked_the_model_no_job_uses_it(world, adopted):
    home = world.owners["hospital"]
    home.owner.revoke("tumour-model", reason="a patient withdrew", broker=home.broker)
    with pytest.raises(RefusedError) as caught:
        predict(world, adopted)
    assert "is revoked by its owner" in " ".join(caught.value.reasons)
