"""Sharded mode: each worker holds a range of nodes, walkers move between shards in bursts. For graphs no machine holds.

A round is one Spark job: every shard takes the walkers that came to it, lets each walk until it is finished or leaves,
and sends those that left on. A walk of l nodes is over after at most l - 1 rounds. The driver sees counts only.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from recspark.contracts import columns as c
from recspark.contracts.tables import WALKS
from recspark.errors import DataError
from recspark.lake.arrow import TableAt
from recspark.lake.spark import read_table
from recspark.logs import log
from recspark.walks import bursts
from recspark.walks import shard_graph as sg
from recspark.walks.bursts import ShardTask
from recspark.walks.messages import NOWHERE, SCHEMA
from recspark.walks.shard_files import ShardFiles, join_thresholds, read_manifest, write_manifest

MESSAGES_AT_ONCE = 16
"""Messages in an Arrow batch; each has up to `bursts.FLUSH_BYTES`, spread over all shards."""


def build_shards(spark: SparkSession, table: TableAt, plan: sg.ShardPlan, num_shards: int) -> ShardFiles:
    """The shards of a pinned graph in ``plan.folder``, taken over where an earlier build has finished them.

    Raises: DataError for edges that are damaged or stand twice.
    """
    if found := read_manifest(plan.folder):
        return found
    rows = read_table(spark, table).select(c.SRC_IDX, c.DST_IDX, c.SCORE)
    cut = _cut(rows, plan, num_shards)
    packed = _map(rows, sg.pack_batches, cut, sg.PACK_SCHEMA).unionByName(_empty_shards(spark, len(cut.bounds) - 1))
    by_shard = packed.repartitionById(len(cut.bounds) - 1, "shard")
    facts = sorted(_map(by_shard, sg.build_batches, cut, sg.FACTS_SCHEMA).collect(), key=lambda row: int(row["shard"]))
    if repeated := sum(row["repeated"] for row in facts):
        raise DataError(f"item_graph: {repeated:,} edges stand twice in a row of neighbours; build the graph again")
    names = [row["name"] for row in facts]
    if plan.bias.is_plus:
        join_thresholds(plan.folder, names)
    files = ShardFiles(
        plan.folder,
        tuple(names),
        cut.bounds,
        num_edges=tuple(row["num_edges"] for row in facts),
        num_starts=sum(row["num_starts"] for row in facts),
        num_bytes=sum(row["num_bytes"] for row in facts),
        has_thresholds=plan.bias.is_plus,
    )
    write_manifest(files)
    return files


def _cut(rows: DataFrame, plan: sg.ShardPlan, num_shards: int) -> sg.ShardPlan:
    scanned = _map(rows, sg.scan_batches, plan, sg.SCAN_SCHEMA).collect()
    if flaws := sum(row["flaws"] for row in scanned):
        raise DataError(
            f"item_graph: {flaws:,} edges have a score that is negative or not finite, or an end that is not among the "
            f"{plan.num_nodes:,} items; mend them at the source or choose another graph.score"
        )
    counts = sum((np.frombuffer(row["edges"], np.int64) for row in scanned), np.zeros(sg.NUM_BUCKETS, np.int64))
    return sg.ShardPlan(**(vars(plan) | {"bounds": sg.cut_nodes(counts, plan.num_nodes, num_shards)}))


def _empty_shards(spark: SparkSession, num_shards: int) -> DataFrame:
    """No edges for each shard: one whose nodes are all isolated is built too."""
    nothing = [F.lit(b"").alias(name) for name in ("sources", "targets", "weights")]
    return spark.range(0, num_shards, 1, 1).select(
        F.col("id").cast("int").alias("shard"), *nothing, F.lit(False).alias("is_reverse")
    )


@contextmanager
def sharded_walks(spark: SparkSession, task: ShardTask) -> Iterator[DataFrame]:
    """All walks of a piece, as rows of the table, the same for any number of shards; frees its storage at the end."""
    with _small_batches(spark):
        finished = _run_rounds(spark, task)
        try:
            rows = reduce(DataFrame.unionAll, finished).repartitionById(task.num_files, "file")
            yield _map(rows, bursts.finished_batches, task, WALKS.schema)
        finally:
            for frame in finished:
                _forget(frame)


def _run_rounds(spark: SparkSession, task: ShardTask) -> list[DataFrame]:
    """Finished walks, in frames that are on disk."""
    num_shards = task.files.num_shards
    shards = spark.range(0, num_shards, 1, num_shards)
    state = _keep(_map(shards, bursts.begin_batches, task, SCHEMA))
    finished: list[DataFrame] = []
    moving, rounds = _count_moving(state, finished[-1:]), 1
    while moving:
        done = _keep(state.where(F.col("shard") == NOWHERE))
        arrived = state.where(F.col("shard") != NOWHERE).repartitionById(num_shards, "shard")
        following = _keep(_map(arrived, bursts.burst_batches, task, SCHEMA))
        finished.append(done)
        moving, rounds = _count_moving(following, [done]), rounds + 1
        _forget(state)
        state = following
    log("walks", "rounds", rounds=rounds, shards=num_shards, part=task.piece.part, epochs=list(task.piece.epochs))
    return [*finished, state]


def _keep(frame: DataFrame) -> DataFrame:
    """On the executors' disks from the first job on, and a leaf of what is planned from it.

    Plans of frames that are only cached hold each other: after 20 rounds Spark runs out of memory over describing them.
    A worker that dies costs its task; with a whole executor a piece is lost, and made again by the next run.
    """
    return frame.localCheckpoint(eager=False, storageLevel=StorageLevel.DISK_ONLY)


def _forget(frame: DataFrame) -> None:
    """Frees a kept frame's disk, which Spark itself does only when its garbage is collected."""
    frame._jdf.queryExecution().logical().rdd().unpersist(False)


def _count_moving(state: DataFrame, others: list[DataFrame]) -> int:
    """Walkers that have to go on; one job that stores ``state`` and ``others`` as well."""
    moving = F.when(F.col("shard") != NOWHERE, F.col("walkers")).otherwise(0)
    row = reduce(DataFrame.unionAll, [state, *others]).agg(F.sum(moving).alias("moving")).first()
    assert row is not None, "an aggregate without groups has one row"
    return int(row["moving"] or 0)


def _map(frame: DataFrame, function: Callable[..., Any], task: Any, schema: pa.Schema) -> DataFrame:
    """A worker function over a frame; what it has to know goes along."""
    names = list(inspect.signature(function).parameters)
    return frame.mapInArrow(partial(function, **{names[1]: task}), from_arrow_schema(schema))


@contextmanager
def _small_batches(spark: SparkSession) -> Iterator[None]:
    """A few messages at once: the default of thousands would put a shard's whole mail into a worker's memory."""
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(setting)
    spark.conf.set(setting, str(MESSAGES_AT_ONCE))
    try:
        yield
    finally:
        spark.conf.set(setting, str(before))
