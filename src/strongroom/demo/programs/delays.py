"""Which departures are late, and why? Three owners' tables, joined inside the room.

The airline brings flights, the weather office observations, the regulator the aircraft register.
"""

from pyspark.ml import Pipeline
from pyspark.ml.classification import RandomForestClassifier
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import StringIndexer, VectorAssembler

from strongroom.workload import room

departures = room.sql("""
    SELECT f.carrier, f.origin, f.month, f.hour, f.distance, f.dep_delay,
           w.temp, w.wind_speed, w.precip, w.visib, w.pressure,
           2013 - p.year AS aircraft_age, p.seats, p.engines
    FROM flights f
    JOIN weather w ON f.origin = w.origin AND f.month = w.month AND f.day = w.day AND f.hour = w.hour
    JOIN planes p ON f.tailnum = p.tailnum
    WHERE f.dep_delay IS NOT NULL
""").cache()
departures.createOrReplaceTempView("departures")

room.write(
    room.sql("""
        SELECT carrier, visib < 5 AS poor_visibility, count(*) AS departures,
               avg(dep_delay) AS mean_delay, avg(wind_speed) AS mean_wind, avg(aircraft_age) AS mean_age
        FROM departures GROUP BY carrier, visib < 5 HAVING count(*) >= 50 ORDER BY carrier, poor_visibility
    """),
    "delays",
)

features = ["hour", "month", "distance", "temp", "wind_speed", "precip", "visib", "pressure", "aircraft_age", "seats"]
samples = room.sql("SELECT *, CAST(dep_delay > 15 AS DOUBLE) AS late FROM departures").dropna(subset=features)
train, test = samples.randomSplit([0.8, 0.2], seed=2013)
model = Pipeline(
    stages=[
        StringIndexer(inputCol="carrier", outputCol="carrier_index"),
        VectorAssembler(inputCols=[*features, "carrier_index"], outputCol="features"),
        RandomForestClassifier(labelCol="late", numTrees=10, maxDepth=6, maxBins=32, seed=2013),
    ]
).fit(train)
quality = BinaryClassificationEvaluator(labelCol="late").evaluate(model.transform(test))
importance = model.stages[-1].featureImportances
rows = [("area under ROC", float(quality))]
rows += [(f"importance of {name}", float(importance[i])) for i, name in enumerate([*features, "carrier"])]
room.write(room.spark.createDataFrame(rows, "measure string, value double"), "model")
