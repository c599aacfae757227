"""XGBoost on Spark: rows come over Spark's encrypted channels to one worker, which learns; every worker predicts.

One worker learns because XGBoost's own traffic between several is in the clear, and a job refuses it.
"""

from xgboost.spark import SparkXGBClassifier

from strongroom.workload import room

joined = room.sql("SELECT * FROM biopsies JOIN findings USING (biopsy)")
features = [name for name in joined.columns if name not in ("biopsy", "benign")]
# One partition in order, so that every run adds up the same numbers in the same order.
ordered = joined.repartition(1).sortWithinPartitions("biopsy")
learner = SparkXGBClassifier(
    features_col=features,
    label_col="benign",
    num_workers=1,
    n_estimators=30,
    max_depth=3,
    learning_rate=0.3,
    tree_method="hist",
    seed=7,
)
model = learner.fit(ordered)

predicted = model.transform(joined.repartition(2, "biopsy"))
right = predicted.where("prediction = benign").count()
room.write(room.spark.createDataFrame([(predicted.count(), right)], "biopsies long, predicted_right long"), "quality")

place = room.scratch() / "model.ubj"
model.get_booster().save_model(place)
room.save(place, "model", card={"features": features, "predicted_right": right})
