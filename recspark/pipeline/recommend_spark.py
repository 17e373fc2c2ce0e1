"""``jobs/recommend.py``: the lists of `recspark recommend`, made by Spark's Python workers, with identical results.

user_histories, users  ->  blocks of users by user_idx  ->  mapInArrow, the model opened once a worker  ->  one commit

The only place where Spark and faiss meet: faiss is imported inside the function that workers run. Executors read model
and index from the lake themselves, so they need its credentials, and numpy, numba, pyarrow, deltalake and faiss-cpu.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from recspark.contracts import columns as c
from recspark.contracts.stages import RECOMMEND, TRAIN
from recspark.contracts.tables import RECOMMENDATIONS
from recspark.lake.arrow import find_commit
from recspark.lake.failures import explaining_failures
from recspark.lake.spark import build_spark, read_table, write_table
from recspark.logs import log, timed
from recspark.pipeline.open_run import open_finished_run
from recspark.pipeline.recommend import Batch, find_lists, plan_batch
from recspark.retrieval.rules import ListRules
from recspark.retrieval.serving import BLOCK_USERS, Pinned

_ROWS = pa.schema([RECOMMENDATIONS.schema.field(name) for name in (c.USER_ID, c.ITEM_IDS, c.SCORES)])
_BLOCK = "_block"


def recommend_by_spark(conf: str, overrides: Sequence[str]) -> None:
    """Writes the lists of a config as `recommend_users` does.

    Raises: as that does.
    """
    with closing(plan_batch(open_finished_run(conf, overrides, TRAIN.name))) as batch:
        done = find_lists(batch)
        if done is not None:
            log(RECOMMEND.name, f"already done at version {done}")
            return
        spark = build_spark(batch.run)
        with explaining_failures(RECOMMEND.name, batch.run.lake), timed(RECOMMEND.name, "listed") as shown:
            shown["version"] = write_lists(spark, batch)
        spark.stop()


def write_lists(spark: SparkSession, batch: Batch) -> int:
    """Commits the lists of a batch; the version of `recommendations` that holds them."""
    predicate = " AND ".join(f"{name} = '{value}'" for name, value in batch.slice.items())
    rows = list_by_spark(spark, batch)
    for name, value in batch.slice.items():
        rows = rows.withColumn(name, F.lit(value))
    version = write_table(rows, batch.run.lake, RECOMMENDATIONS, batch.record({}), replace=predicate)
    assert find_commit(batch.run.lake, RECOMMENDATIONS.name, batch.key), "the commit just made carries its record"
    return version


def list_by_spark(spark: SparkSession, batch: Batch) -> DataFrame:
    """user_id, item_ids, scores of every user of the batch."""
    sent = spark.sparkContext.broadcast((batch.key, batch.pinned, batch.rules))
    return _read_users(spark, batch).mapInArrow(_worker(sent), from_arrow_schema(_ROWS))


def _read_users(spark: SparkSession, batch: Batch) -> DataFrame:
    """Users with their events, whole blocks in a partition, by ascending user_idx: one shuffle of the histories."""
    histories = read_table(spark, batch.pinned.user_histories).select(*batch.pinned.history_columns)
    users = read_table(spark, batch.pinned.users).select(c.USER_IDX, c.USER_ID)
    if batch.listed is not None:
        listed = spark.createDataFrame([(user_id,) for user_id in batch.listed.to_pylist()], [c.USER_ID])
        users = users.join(F.broadcast(listed), c.USER_ID, "left_semi")
    found = histories.where(F.size(c.ITEM_IDX) > 0).join(users, c.USER_IDX)
    columns = [c.USER_ID, *batch.pinned.history_columns]
    block = F.floor(F.col(c.USER_IDX) / BLOCK_USERS)
    blocks = found.select(*columns).withColumn(_BLOCK, block)
    return blocks.repartition(_BLOCK).sortWithinPartitions(c.USER_IDX).drop(_BLOCK)


def _worker(
    sent: "Broadcast[tuple[str, Pinned, ListRules]]",
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def list_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from recspark.retrieval.serving import cut_blocks, open_once

        recommender = open_once(*sent.value)
        for block in cut_blocks(batches):
            rows = recommender.list_users(block[c.USER_ID], block)
            yield from rows.select(_ROWS.names).cast(_ROWS).to_batches()

    return list_partition
