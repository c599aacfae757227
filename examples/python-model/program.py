"""scikit-learn, pandas and Polars inside one attested worker; the weights leave as JSON, for a pickle could not."""

import json

import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from strongroom.workload import room

biopsies, findings = pl.from_arrow(room.read("biopsies")), pl.from_arrow(room.read("findings"))
table = biopsies.join(findings, on="biopsy").sort("biopsy").to_pandas()
features = [name for name in table if name not in ("biopsy", "benign")]
learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
scores = cross_val_score(learner, table[features], table["benign"], cv=5)
learner.fit(table[features], table["benign"])
scaler, logistic = (step for _, step in learner.steps)

room.write(pl.DataFrame({"fold": range(5), "accuracy": scores}), "quality")
weights = {
    "features": features,
    "mean": scaler.mean_.tolist(),
    "scale": scaler.scale_.tolist(),
    "weights": logistic.coef_[0].tolist(),
    "intercept": float(logistic.intercept_[0]),
}
room.save({"weights.json": json.dumps(weights)}, "model", card={"features": features, "accuracy": float(scores.mean())})
