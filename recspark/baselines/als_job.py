"""Stage als: train histories -> `als_factors`, by Spark's MLlib. The only module of this room that needs Spark.

user_histories row   item_idx [3, 5, 3, 8], num_train 3  ->  ratings (user, 3, 1), (user, 5, 1)  ->  a vector an item
"""

from pyspark import StorageLevel
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.tables import ALS_FACTORS
from recspark.faults import fault_point
from recspark.lake.arrow import find_table
from recspark.lake.spark import read_table, write_table
from recspark.logs import log

STAGE = "als"
_RATING = "rating"


def build_als_factors(spark: SparkSession, run: Run) -> None:
    """Fits and commits the factors of all items with train events.

    The same table, Spark version and seed give the same factors up to rounding, whatever the cores: MLlib's blocks are
    a fixed number.
    """
    histories = find_table(run.lake, run.producer("user_histories"), "user_histories")
    ratings = to_ratings(read_table(spark, histories)).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        factors = fit_als(ratings, run)
        record = run.record(
            STAGE,
            is_marker=True,
            inputs={histories.name: histories.version},
            counts={"num_ratings": ratings.count(), "num_items": factors.count()},
        )
        version = write_table(factors, run.lake, ALS_FACTORS, record)
        fault_point(f"{STAGE}.after_commit")
    finally:
        ratings.unpersist()
    log(STAGE, f"done at version {version}", **record.counts)


def to_ratings(histories: DataFrame) -> DataFrame:
    """A row with rating 1 for each distinct item of each user's train part."""
    train = F.array_distinct(F.slice(c.ITEM_IDX, 1, F.col(c.NUM_TRAIN)))
    items = histories.where(F.col(c.NUM_TRAIN) > 0).select(c.USER_IDX, F.explode(train).alias(c.ITEM_IDX))
    return items.withColumn(_RATING, F.lit(1.0).cast("float"))


def fit_als(ratings: DataFrame, run: Run) -> DataFrame:
    """Rows of `als_factors`."""
    config = run.config.baselines.als
    als = ALS(
        rank=run.config.model.embedding_dim, maxIter=config.num_iterations, regParam=config.regularisation,
        implicitPrefs=True, alpha=config.alpha, userCol=c.USER_IDX, itemCol=c.ITEM_IDX, ratingCol=_RATING,
        seed=run.seed,
    )  # fmt: skip
    found = als.fit(ratings).itemFactors
    return found.select(F.col("id").cast("int").alias(c.ITEM_IDX), F.col("features").alias(c.VECTOR))
