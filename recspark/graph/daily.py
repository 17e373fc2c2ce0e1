"""The graph from sums that are kept: a day of sessions is added, or taken away, at the cost of its own pairs.

    sessions of changed days -> `sum_units` -> rows of sums, `negate`d for days that go
    stored rows of touched items + these -> `add_sums` -> new stored rows
    stored rows of items to score -> `score_rows` -> rows of `item_graph`

Equal to the full build, bit by bit: the sums are integers in a fixed point that no day changes.
"""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEM_GRAPH
from recspark.graph.blocks import BlockPlan, UnitStats
from recspark.graph.cooccurrence import shuffle_units
from recspark.graph.pair_sums import SUMS_SCHEMA, ScorePlan, merge_sums, reduce_to_sums, score_sums
from recspark.graph.pairs import PairWeights, unit_shape
from recspark.graph.scores import score_counts, score_rule
from recspark.graph.shuffle import GraphPlan
from recspark.lake.spark import spark_schema

NEIGHBOUR_SCORES = ("cosine", "jaccard")
"""A score hangs on the counts of its two items: rows that hold a touched item are scored again."""
GLOBAL_SCORES = ("lift", "ppmi", "llr")
"""A score hangs on the number of units, or on all row sums: every row is scored again."""


def digest_days(sessions: DataFrame, use_event_weights: bool) -> dict[str, list[str]]:
    """Of each UTC day with train sessions: their number and a hash of all that the graph reads of them; one scan."""
    hashed = F.xxhash64(c.ITEM_IDX, c.WEIGHT) if use_event_weights else F.xxhash64(c.ITEM_IDX)
    by_day = sessions.where(F.col(c.SPLIT) == c.TRAIN).groupBy(c.DAY)
    rows = by_day.agg(F.count("*").alias("n"), F.sum(hashed.cast("decimal(38,0)")).alias("hash")).collect()
    return {str(row[c.DAY]): [str(row["n"]), str(row["hash"])] for row in rows}


def sum_units(
    units: DataFrame, stats: UnitStats, config: GraphConfig, work: tuple[PairWeights, BlockPlan]
) -> DataFrame:
    """Rows of sums of these units, by the one shuffle of the full build: several rows an item."""
    no_sums = np.zeros(len(stats.unit_counts))  # nothing is scored here
    plan = GraphPlan(unit_shape(config), *work, score_rule(config, *score_counts(config, stats), no_sums))
    by_block, shared = shuffle_units(units, plan)
    schema = from_arrow_schema(SUMS_SCHEMA)
    pairs = by_block.mapInArrow(lambda batches: reduce_to_sums(batches, shared.value), schema)
    return pairs.unionByName(count_rows(units.sparkSession, stats.unit_counts))


def count_rows(spark: SparkSession, unit_counts: NDArray[np.int64]) -> DataFrame:
    """A row without pairs for each item that a unit holds."""
    items = np.flatnonzero(unit_counts).astype(np.int32)
    nothing: list[list[int]] = [[]] * len(items)
    values = [items, unit_counts[items], np.zeros(len(items), np.int64), nothing, nothing, nothing]
    arrays = [pa.array(v, field.type) for v, field in zip(values, SUMS_SCHEMA, strict=True)]
    return spark.createDataFrame(pa.Table.from_arrays(arrays, schema=SUMS_SCHEMA))


def negate(sums: DataFrame) -> DataFrame:
    """The rows that take these away."""
    lists = {name: F.transform(name, lambda value: -value) for name in (c.SUM, c.COUNT)}
    return sums.withColumns({c.NUM_UNITS: -F.col(c.NUM_UNITS), **lists})


def add_sums(parts: Collection[DataFrame]) -> DataFrame:
    """One row an item, everything added; ``num_units`` 0 where nothing is left of it."""
    first, *others = (part.select(*SUMS_SCHEMA.names) for part in parts)
    for part in others:
        first = first.unionByName(part)
    by_item = first.repartition(c.SRC_IDX).sortWithinPartitions(c.SRC_IDX)
    return by_item.mapInArrow(merge_sums, from_arrow_schema(SUMS_SCHEMA))


def read_terms(sums: DataFrame, num_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(units, row sum) of each item [num_items]."""
    rows = sums.select(c.SRC_IDX, c.NUM_UNITS, c.ROW_SUM).toArrow()
    counts, row_sums = np.zeros(num_items, np.int64), np.zeros(num_items, np.int64)
    counts[rows[c.SRC_IDX].to_numpy()] = rows[c.NUM_UNITS].to_numpy()
    row_sums[rows[c.SRC_IDX].to_numpy()] = rows[c.ROW_SUM].to_numpy()
    return counts, row_sums


def find_rows_to_score(changed: DataFrame, config: GraphConfig) -> DataFrame | None:
    """The items whose row may come out other than before, given the rows of sums that changed; None for all."""
    if config.score in GLOBAL_SCORES:
        return None
    touched = changed.select(c.SRC_IDX)
    if config.score in NEIGHBOUR_SCORES:
        touched = touched.union(changed.select(F.explode(c.DST_IDX))).distinct()
    return touched


def score_rows(sums: DataFrame, plan: ScorePlan) -> DataFrame:
    """Rows of `item_graph`."""
    shared = sums.sparkSession.sparkContext.broadcast(plan)
    rows = sums.select(*SUMS_SCHEMA.names)
    return rows.mapInArrow(lambda batches: score_sums(batches, shared.value), spark_schema(ITEM_GRAPH))
