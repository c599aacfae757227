"""XGBoost and LightGBM on two attested workers: each has half of the rows, and both end with the same two models."""

import lightgbm
import pyarrow as pa
import xgboost

from strongroom.workload import room

table = room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy) ORDER BY biopsy").to_pandas()
features = [name for name in table if name not in ("biopsy", "benign")]
own = table.iloc[room.rank :: room.size]  # this rank's rows


def boost() -> xgboost.Booster:
    """Learn on the own rows; XGBoost adds up what all ranks see."""
    rows = xgboost.QuantileDMatrix(own[features], label=own["benign"])
    settings = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.3, "nthread": 1}
    return xgboost.train(settings, rows, num_boost_round=20, evals=[(rows, "train")])


def light() -> lightgbm.Booster:
    """Learn on the own rows; LightGBM adds up what all ranks see."""
    settings = {
        "objective": "binary",
        "tree_learner": "data",
        "num_machines": room.size,
        "pre_partition": True,
        "deterministic": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    rows = lightgbm.Dataset(own[features], label=own["benign"], params=settings)
    return lightgbm.train(settings, rows, num_boost_round=20)


boosted = room.xgboost(boost)
lighter = room.lightgbm(light)

if room.rank == 0:
    every = xgboost.DMatrix(table[features])
    found = {
        "xgboost": (boosted.predict(every) > 0.5) == table["benign"],  # noqa: PLR2004
        "lightgbm": (lighter.predict(table[features]) > 0.5) == table["benign"],  # noqa: PLR2004
    }
    right = {library: int(told.sum()) for library, told in found.items()}
    room.write(pa.table({"library": list(right), "predicted_right": list(right.values())}), "quality")
    models = {"model.ubj": bytes(boosted.save_raw("ubj")), "model.txt": lighter.model_to_string()}
    room.save(models, "model", card={"features": features, "predicted_right": right})
