"""Spark MLlib on two owners' data, joined inside the room: every family of models, a pipeline and cross-validation.

The hospital brings the first measurements of each biopsy, the laboratory the others and the finding. One table of
numbers leaves, and the best pipeline as a model.
"""

from pyspark.ml import Pipeline
from pyspark.ml.classification import GBTClassifier, LogisticRegression, RandomForestClassifier
from pyspark.ml.clustering import LDA, GaussianMixture, KMeans
from pyspark.ml.evaluation import BinaryClassificationEvaluator
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.ml.recommendation import ALS
from pyspark.ml.regression import LinearRegression
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F  # noqa: N812

from strongroom.workload import room

joined = room.sql("SELECT *, CAST(benign AS DOUBLE) AS label FROM biopsies JOIN findings USING (biopsy)")
# Each biopsy in one place and the places in order, so that every run adds up the same numbers in the same order.
joined = joined.repartition(2, "biopsy").sortWithinPartitions("biopsy").cache()
features = [name for name in joined.columns if name not in ("biopsy", "benign", "label")]
assembler = VectorAssembler(inputCols=features, outputCol="raw")
scaler = StandardScaler(inputCol="raw", outputCol="features", withMean=True)
data = Pipeline(stages=[assembler, scaler]).fit(joined).transform(joined).cache()
quality = BinaryClassificationEvaluator()
numbers = []


def note(algorithm, **measures):
    numbers.extend((algorithm, name, float(value)) for name, value in measures.items())


linear = LinearRegression(labelCol="mean_area", featuresCol="features", maxIter=20, regParam=0.1).fit(data)
note("linear regression", rmse=linear.summary.rootMeanSquaredError, first=linear.coefficients[0])

logistic = LogisticRegression(maxIter=20, regParam=0.01).fit(data)
note("logistic regression", auc=quality.evaluate(logistic.transform(data)), first=logistic.coefficients[0])

forest = RandomForestClassifier(numTrees=8, maxDepth=4, seed=7).fit(data)
note("random forest", auc=quality.evaluate(forest.transform(data)), first=forest.featureImportances[0])

boosted = GBTClassifier(maxIter=4, maxDepth=3, seed=7).fit(data)
note("gradient-boosted trees", auc=quality.evaluate(boosted.transform(data)), nodes=boosted.totalNumNodes)

means = KMeans(k=3, seed=7, maxIter=10).fit(data)
note("k-means", cost=means.summary.trainingCost, first=means.clusterCenters()[0][0])

few = VectorAssembler(inputCols=features[:3], outputCol="few").transform(joined)
mixture = GaussianMixture(featuresCol="few", k=2, seed=7, maxIter=10).fit(few)
note("Gaussian mixture", likelihood=mixture.summary.logLikelihood, weight=max(mixture.weights))

counts = joined.select("biopsy", *(F.round(F.col(name)).alias(name) for name in features[:4]))
counts = VectorAssembler(inputCols=features[:4], outputCol="features").transform(counts)
topics = LDA(k=3, seed=7, maxIter=5, optimizer="online", subsamplingRate=1.0).fit(counts)
note("LDA", likelihood=topics.logLikelihood(counts), first=topics.topicsMatrix().toArray()[0][0])

ratings = joined.select(F.col("biopsy").alias("user"), F.posexplode(F.array(*features[:8])).alias("item", "rating"))
factors = ALS(
    userCol="user", itemCol="item", ratingCol="rating", rank=3, maxIter=4, seed=7, numUserBlocks=2, numItemBlocks=2
).fit(ratings)
note(
    "ALS",
    error=factors.transform(ratings).select(F.sqrt(F.avg((F.col("rating") - F.col("prediction")) ** 2))).first()[0],
)

chosen = LogisticRegression(maxIter=15)
pipeline = Pipeline(stages=[assembler, scaler, chosen])
grid = ParamGridBuilder().addGrid(chosen.regParam, [0.01, 0.1]).build()
searched = joined.withColumn("fold", (F.col("biopsy") % 2).cast("int"))
search = CrossValidator(estimator=pipeline, estimatorParamMaps=grid, evaluator=quality, numFolds=2, foldCol="fold")
best = search.fit(searched)
note("cross-validation", weak=best.avgMetrics[0], strong=best.avgMetrics[1])

room.write(room.spark.createDataFrame(numbers, "algorithm string, measure string, value double"), "numbers")
room.save(best.bestModel, "model", card={"features": features, "auc": max(best.avgMetrics)})
