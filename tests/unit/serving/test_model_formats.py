"""A program without a ``load`` gets each known format as the library that wrote it would load it."""

import io
import json

import numpy as np
import pytest

from strongroom.errors import StrongroomError
from strongroom.serving.model import load_version

PREDICT = b"""
def predict(model, inputs):
    return {"chance": model.PREDICT(inputs["x"])}
"""
DATA = np.random.default_rng(7).random((40, 3))
TARGET = (DATA.sum(axis=1) > 1.5).astype(int)


def served(program, **files):
    """Return what a program predicts that is served from ``files``, whose names have two underscores for the point."""
    named = {name.replace("__", "."): io.BytesIO(data) for name, data in files.items()}
    loaded = load_version(program, {"trees": named}, version="1", names="trees@1")
    return loaded.predict(loaded.model, {"x": DATA})


@pytest.mark.learning
@pytest.mark.parametrize("form", ["ubj", "json"])
def test_xgboost_predicts_as_before_it_was_saved(form):
    import xgboost

    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(DATA, TARGET), 5)
    answer = served(
        PREDICT.replace(b"PREDICT", b"inplace_predict"),
        **{f"model__{form}": bytes(booster.save_raw(form)), "model-card__json": b"{}"},
    )
    np.testing.assert_array_equal(answer["chance"], booster.inplace_predict(DATA))


@pytest.mark.learning
def test_lightgbm_predicts_as_before_it_was_saved():
    import lightgbm

    asked = {"objective": "binary", "min_data_in_leaf": 2, "num_threads": 1, "verbose": -1}
    booster = lightgbm.train(asked, lightgbm.Dataset(DATA, TARGET), 5)
    answer = served(PREDICT.replace(b"PREDICT", b"predict"), model__txt=booster.model_to_string().encode())
    np.testing.assert_array_equal(answer["chance"], booster.predict(DATA))
    assert len(set(answer["chance"])) > 1


def test_safetensors_are_arrays_by_name():
    from safetensors.numpy import save

    weights = np.array([0.5, -0.25, 2.0])
    program = b'def predict(model, inputs):\n    return {"score": inputs["x"] @ model["weights"]}\n'
    answer = served(program, model__safetensors=save({"weights": weights}), tokenizer__json=b"{}")
    np.testing.assert_array_equal(answer["score"], DATA @ weights)


def test_json_is_what_it_says():
    program = b'def predict(model, inputs):\n    return {"score": inputs["x"] @ model["weights"]}\n'
    answer = served(program, weights__json=json.dumps({"weights": [1.0, 2.0, 3.0]}).encode())
    np.testing.assert_array_equal(answer["score"], DATA @ [1.0, 2.0, 3.0])


@pytest.mark.parametrize("files", [{"model__onnx": b"x"}, {"model__pkl": b"x"}, {"a__json": b"1", "b__json": b"2"}])
def test_another_format_or_several_files_need_a_load(files):
    with pytest.raises(StrongroomError, match=r"known format|load"):
        served(PREDICT, **files)


@pytest.mark.parametrize("name", ["model__safetensors", "model__json", "model__txt", "model__ubj", "weights__json"])
@pytest.mark.learning
def test_broken_file_is_refused_in_words(name):
    with pytest.raises(StrongroomError):
        served(PREDICT, **{name: b"\x00 nothing of the kind"})
