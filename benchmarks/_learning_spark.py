"""Train on Spark on two owners' tables, and say how long each took and what came out."""

import time

from pyspark.ml.classification import GBTClassifier, LogisticRegression, RandomForestClassifier
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.regression import LinearRegression
from xgboost.spark import SparkXGBClassifier

from strongroom.workload import room

rows = []
features = ["distance", "hour", "month", "day", "temp", "wind_speed", "precip", "visib", "pressure"]


def timed(name, work, number):
    begun = time.perf_counter()
    made = work()
    rows.append((name, time.perf_counter() - begun, float(number(made))))
    return made


def read():
    joined = room.sql("""
        SELECT f.distance, f.hour, f.month, f.day, w.temp, w.wind_speed, w.precip, w.visib, w.pressure,
               CAST(f.dep_delay AS DOUBLE) AS delay, CAST(f.dep_delay > 15 AS DOUBLE) AS label
        FROM flights f
        JOIN weather w ON f.origin = w.origin AND f.month = w.month AND f.day = w.day AND f.hour = w.hour
        WHERE f.dep_delay IS NOT NULL
    """).dropna()
    # The same rows at the same places in every run; sorting by everything leaves no order to chance.
    joined = joined.repartition(2, "month", "day", "hour").sortWithinPartitions(*joined.columns)
    return VectorAssembler(inputCols=features, outputCol="features").transform(joined).cache()


data = timed("read and join (Spark)", read, lambda frame: frame.count())
timed("linear regression", lambda: LinearRegression(labelCol="delay").fit(data), lambda made: made.coefficients[0])
timed("logistic regression", lambda: LogisticRegression(maxIter=20).fit(data), lambda made: made.coefficients[0])
timed("random forest", lambda: RandomForestClassifier(numTrees=10, seed=7).fit(data), lambda made: made.totalNumNodes)
timed("gradient-boosted trees", lambda: GBTClassifier(maxIter=5, seed=7).fit(data), lambda made: made.totalNumNodes)
timed("k-means", lambda: KMeans(k=8, maxIter=10, seed=7).fit(data), lambda made: made.summary.trainingCost)
ordered = data.select("label", *features).repartition(1).sortWithinPartitions("label", *features)
learner = SparkXGBClassifier(features_col=features, label_col="label", num_workers=1, n_estimators=30, max_depth=5)
timed("XGBoost on Spark", lambda: learner.fit(ordered), lambda made: len(made.get_booster().get_dump()))
room.write(room.spark.createDataFrame(rows, "name string, seconds double, number double"), "trained")
