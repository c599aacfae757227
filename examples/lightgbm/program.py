"""LightGBM inside one attested worker: the tables never leave its memory, and the model leaves as text."""

import lightgbm
import pyarrow as pa

from strongroom.workload import room

table = room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy) ORDER BY biopsy").to_pandas()
features = [name for name in table if name not in ("biopsy", "benign")]
settings = {
    "objective": "binary",
    "num_leaves": 8,
    "learning_rate": 0.2,
    "seed": 7,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
model = lightgbm.train(settings, lightgbm.Dataset(table[features], label=table["benign"]), num_boost_round=30)
right = int(((model.predict(table[features]) > 0.5) == table["benign"]).sum())  # noqa: PLR2004

room.write(pa.table({"biopsies": [len(table)], "predicted_right": [right]}), "quality")
room.save({"model.txt": model.model_to_string()}, "model", card={"features": features, "predicted_right": right})
