"""scikit-learn, pandas and Polars learn on two owners' encrypted data, and learn what they learn on plain data."""

import json
from textwrap import dedent

import numpy as np
import pytest
from learning_world import breast_cancer, learning_world, split_by_columns

from strongroom.errors import RefusedError, StrongroomError

sklearn = pytest.importorskip("sklearn", reason="pip install 'strongroom[learning]'")
pytestmark = pytest.mark.learning

LEARN = dedent("""
    import json
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from strongroom.workload import room

    table = room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy) ORDER BY biopsy").to_pandas()
    features = [name for name in table if name not in ("biopsy", "benign")]
    values = StandardScaler().fit_transform(table[features])
    model = LogisticRegression(max_iter=500).fit(values, table["benign"])
    accuracy = float(model.score(values, table["benign"]))
    weights = {"features": features, "weights": model.coef_[0].tolist(), "intercept": float(model.intercept_[0])}
    room.save({"weights.json": json.dumps(weights)}, "model", card={"features": features, "accuracy": accuracy})
""")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with learning_world(tmp_path_factory.mktemp("learning"), tables=split_by_columns()) as made:
        yield made


@pytest.fixture(scope="module")
def learned(world):
    report = world.learn(LEARN, outputs={"model": "files"})
    return report, world.fetch_files(report, "model")


def test_scikit_learn_finds_the_weights_of_the_plain_run(learned):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    _, files = learned
    found = json.loads(files.open("weights.json").readall())
    plain = breast_cancer().to_pandas()
    values = StandardScaler().fit_transform(plain[found["features"]])
    model = LogisticRegression(max_iter=500).fit(values, plain["benign"])
    assert found["features"] == [name for name in plain if name not in ("biopsy", "benign")]
    np.testing.assert_allclose(found["weights"], model.coef_[0], rtol=1e-9)
    assert found["intercept"] == pytest.approx(model.intercept_[0], rel=1e-9)


def test_model_card_names_data_program_and_policies_and_the_ledger_names_the_card(world, learned):
    import hashlib

    report, files = learned
    text = files.open("model-card.json").readall()
    card = json.loads(text)
    (entry,) = [one for one in world.entries("output") if one.facts["digest"] == report.outputs[0]["digest"]]
    assert entry.facts["card"] == f"sha256:{hashlib.sha256(text).hexdigest()}"
    assert [(one["dataset"], one["version"]) for one in entry.facts["lineage"]] == [("biopsies", 1), ("findings", 1)]
    assert {one["policy"] for one in entry.facts["lineage"]} == set(card["lineage"]["policies"])
    assert card["lineage"]["program"] == f"sha256:{hashlib.sha256(LEARN.encode()).hexdigest()}"
    assert card["lineage"]["data"]["findings"]["version"] == 1
    assert card["said"]["accuracy"] > 0.98
    assert card["files"]["weights.json"]["bytes"] > 100
    assert card["made_with"]["sklearn"] == sklearn.__version__


def test_pandas_and_polars_frames_are_written_as_tables(world):
    program = dedent("""
        import polars as pl
        from strongroom.workload import room

        both = pl.from_arrow(room.read("biopsies")).join(pl.from_arrow(room.read("findings")), on="biopsy")
        means = both.group_by("benign").agg(pl.col("mean_radius").mean(), pl.len().alias("n")).sort("benign")
        room.write(means, "polars")
        room.write(means.to_pandas(), "pandas")
        room.write(room.sql("SELECT benign, count(*) AS n FROM findings GROUP BY benign ORDER BY benign"), "arrow")
    """)
    report = world.learn(program, outputs=dict.fromkeys(("polars", "pandas", "arrow"), "table"))
    plain = breast_cancer().to_pandas().groupby("benign").mean_radius.mean()
    for output in ("polars", "pandas"):
        rows = world.fetch(report, output)
        assert [row["mean_radius"] for row in rows] == pytest.approx(plain.tolist(), rel=1e-12)
    assert [row["n"] for row in world.fetch(report, "arrow")] == [212, 357]


def test_program_cannot_leave_plaintext_on_a_disk(world, tmp_path):
    program = dedent(f"""
        import pathlib, tempfile
        from strongroom.workload import room

        refused = 0
        for place in ({str(tmp_path)!r}, "/tmp", "/var/tmp"):
            try:
                pathlib.Path(place, "leaked.csv").write_text("data")
            except PermissionError:
                refused += 1
        with tempfile.NamedTemporaryFile() as cache:
            in_memory = cache.name.startswith("/dev/shm/strongroom-job-")
        room.write(room.sql(f"SELECT {{refused}} AS refused, {{in_memory}} AS in_memory"), "walls")
    """)
    report = world.learn(program, outputs={"walls": "table"})
    assert world.fetch(report, "walls") == [{"refused": 3, "in_memory": True}]
    assert not (tmp_path / "leaked.csv").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.pkl", b"anything"),
        ("model.joblib", b"anything"),
        ("weights.json", b"\x80\x04\x95\x00"),
        ("weights.txt", b"cos\nsystem\n(S'true'\ntR."),
        ("weights.json", b"PK\x03\x04"),
        ("weights.bin", b"12"),
    ],
)
def test_pickles_and_unknown_formats_are_refused_before_anything_is_saved(world, name, content):
    program = dedent(f"""
        from strongroom.workload import room
        room.save({{{name!r}: {content!r}}}, "model")
    """)
    with pytest.raises(RefusedError) as caught:
        world.learn(program, outputs={"model": "files"})
    assert any("not known to be plain data" in one for one in caught.value.reasons)
    assert name not in f"{caught.value.message} {caught.value.reasons}"  # the program may have made it of data


def test_files_leave_only_where_every_owner_permits_them(world):
    with pytest.raises(RefusedError) as caught:
        world.learn(LEARN, outputs={"model": "files"}, takers=None)
    assert "not every owner permits any" in caught.value.reasons[0]
    with pytest.raises(RefusedError) as caught:
        world.learn(LEARN, outputs={"model": "files"}, takers=("partner",))
    assert "may not take out files" in caught.value.reasons[0]
    with pytest.raises(RefusedError) as caught:
        world.learn(LEARN, outputs={"model": "files"}, max_bytes=100)
    assert "permit at most 100" in caught.value.reasons[0]


def test_python_job_is_not_run_by_spark_and_an_estimator_is_no_file(world):
    with pytest.raises(StrongroomError, match="spark engine runs sql and spark jobs, not python"):
        world.learn(LEARN, outputs={"model": "files"}, engine="spark")
    program = 'from strongroom.workload import room\nroom.save(object(), "model")\n'
    with pytest.raises(StrongroomError, match="gave something to save that is no file"):
        world.learn(program, outputs={"model": "files"})


@pytest.mark.slow
def test_scikit_learn_uses_several_processes_inside(world):
    program = dedent("""
        import pyarrow as pa
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score
        from strongroom.workload import room

        table = room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy) ORDER BY biopsy").to_pandas()
        values = table[["mean_radius", "mean_texture"]]
        alone = cross_val_score(LogisticRegression(), values, table["benign"], cv=3)
        together = cross_val_score(LogisticRegression(), values, table["benign"], cv=3, n_jobs=2)
        room.write(pa.table({"alone": alone, "together": together}), "scores")
    """)
    report = world.learn(program, outputs={"scores": "table"})
    scores = world.fetch(report, "scores")
    assert len(scores) == 3
    assert [row["alone"] for row in scores] == [row["together"] for row in scores]
