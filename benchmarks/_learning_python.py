"""Train in one process on two owners' tables, and say how long each took and what came out."""

import time

import lightgbm
import pyarrow as pa
import xgboost
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from strongroom.workload import room

rows = []


def timed(name, work, number):
    begun = time.perf_counter()
    made = work()
    rows.append((name, time.perf_counter() - begun, float(number(made))))
    return made


def read():
    return room.sql("""
        SELECT f.distance, f.hour, f.month, f.day, w.temp, w.wind_speed, w.precip, w.visib, w.pressure,
               CAST(f.dep_delay > 15 AS INTEGER) AS late
        FROM flights f
        JOIN weather w ON f.origin = w.origin AND f.month = w.month AND f.day = w.day AND f.hour = w.hour
        WHERE f.dep_delay IS NOT NULL AND w.wind_speed IS NOT NULL AND w.pressure IS NOT NULL
        ORDER BY f.month, f.day, f.hour, f.distance, f.dep_delay, w.temp
    """).to_pandas()


table = timed("read and join (DuckDB)", read, len)
values, late = table.drop(columns="late"), table["late"]
settings = {"objective": "binary", "num_threads": 1, "seed": 7, "deterministic": True, "verbosity": -1}


def score(model):
    return model.score(values, late)


timed(
    "LightGBM",
    lambda: lightgbm.train(settings, lightgbm.Dataset(values, label=late), num_boost_round=60),
    lambda model: model.predict(values).mean(),
)
timed("XGBoost", lambda: xgboost.XGBClassifier(n_estimators=60, max_depth=5, n_jobs=1, seed=7).fit(values, late), score)
learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
timed("scikit-learn", lambda: cross_val_score(learner, values, late, cv=5), lambda scores: scores.mean())
names, seconds, numbers = zip(*rows, strict=True)
room.write(pa.table({"name": names, "seconds": seconds, "number": numbers}), "trained")
