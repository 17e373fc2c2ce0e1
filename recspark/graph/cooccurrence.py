"""The co-occurrence graph on Spark: one scan for counts, one shuffle of units, rows of `item_graph` out.

    item_idx [4, 9, 4]  ->  src_idx 4, dst_idx [9], score [0.7], count [1]
                            src_idx 9, dst_idx [4], score [0.7], count [1]

`session_units` or `user_units` -> `count_units` -> `plan_work` -> `plan_graph` -> `build_edges`. A self-join would
ship every pair; here each unit travels once to each block of items that it touches, and pairs exist only in a kernel's
accumulator.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEM_GRAPH
from recspark.graph import stats as st
from recspark.graph.blocks import BlockPlan, UnitStats, byte_costs, plan_blocks
from recspark.graph.kernel import PLAIN
from recspark.graph.pairs import PairWeights, UnitShape, pair_weights, unit_shape
from recspark.graph.scores import score_counts, score_rule
from recspark.graph.shuffle import PACKED_SCHEMA, GraphPlan, pack_batches, reduce_batches
from recspark.graph.units import CUT_EVENTS, CUT_USERS, TIME_US
from recspark.lake.spark import spark_schema

if TYPE_CHECKING:
    import pyarrow as pa

    Batches = Iterator[pa.RecordBatch]
    Work = Callable[[Batches], Batches]


@dataclass(frozen=True)
class BuiltGraph:
    """Rows of `item_graph`, not yet computed, and what goes into the commit beside them."""

    edges: DataFrame
    stats: UnitStats
    tables: dict[str, int] = field(default_factory=dict)
    """Side tables, committed already."""
    facts: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    held: tuple[DataFrame, ...] = ()
    """Frames to let go of after the commit."""


def session_units(sessions: DataFrame, shape: UnitShape, max_user_events: int | None = None) -> DataFrame:
    """Train sessions as units: items, and what of weights, end times and users is used.

    A cap on users' events, or support by user, costs a shuffle of the sessions by user.
    """
    train = sessions.where(F.col(c.SPLIT) == c.TRAIN)
    if max_user_events:
        train = cap_users(train, max_user_events)
    units = train.select(*_used(shape, F.col(c.ITEM_IDX), F.col(c.WEIGHT), F.unix_micros(c.END_TS)))
    # All of a user in one task, one session after the other: users are counted as they change.
    return units.repartition(c.USER_IDX).sortWithinPartitions(c.USER_IDX) if shape.by_user else units


def cap_users(sessions: DataFrame, max_user_events: int) -> DataFrame:
    """Each user's sessions cut to the user's newest events; sessions that lose all of them stay, empty.

    Adds what was cut (`CUT_EVENTS`), and a 1 in one session of each user that was (`CUT_USERS`).
    """
    newest_first = Window.partitionBy(c.USER_IDX).orderBy(F.desc(c.END_TS), F.desc(c.START_TS), F.desc(c.SESSION_ID))
    size = F.size(c.ITEM_IDX)
    until_here = F.sum(size).over(newest_first.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    measured = sessions.withColumn("_after", until_here).withColumn("_before", F.col("_after") - size)
    room = F.lit(max_user_events) - F.col("_before")
    kept = F.greatest(F.lit(0), F.least(size, room)).cast("int")
    first = F.greatest(F.lit(1), size - kept + 1)
    is_crossing = (room >= 0) & (F.col("_after") > max_user_events)
    cut = measured.withColumns(
        {
            CUT_EVENTS: (size - kept).cast("long"),
            CUT_USERS: is_crossing.cast("long"),
            c.ITEM_IDX: F.slice(c.ITEM_IDX, first, kept),
            c.WEIGHT: F.slice(c.WEIGHT, first, kept),
        }
    )
    return cut.drop("_after", "_before")


def user_units(histories: DataFrame, shape: UnitShape) -> DataFrame:
    """The train part of each user's history as a unit; its time is the user's newest train event."""
    train = histories.where(F.col(c.NUM_TRAIN) > 0)
    items, weights = (F.slice(column, 1, F.col(c.NUM_TRAIN)) for column in (c.ITEM_IDX, c.WEIGHT))
    return train.select(*_used(shape, items, weights, F.element_at(c.TS, F.col(c.NUM_TRAIN))))


def _used(shape: UnitShape, items: Any, weights: Any, time_us: Any) -> list[Any]:
    used = [items.alias(c.ITEM_IDX)]
    if shape.use_event_weights:
        used.append(weights.alias(c.WEIGHT))
    if shape.use_times:
        used.append(time_us.alias(TIME_US))
    if shape.by_user:
        used.append(F.col(c.USER_IDX))
    if shape.has_user_cap:
        used += [F.col(CUT_EVENTS), F.col(CUT_USERS)]
    return used


def count_units(units: DataFrame, shape: UnitShape, num_items: int) -> UnitStats:
    """Counts and costs of all items, in one scan; the driver holds arrays of ``num_items`` only."""
    count = st.num_values(shape)
    merged = _merge(units, lambda batches: st.count_batches(batches, shape, num_items), num_items, count)
    return st.read_stats(merged, shape, num_items)


def sum_rows(units: DataFrame, shape: UnitShape, weights: PairWeights, num_items: int) -> NDArray[np.float64]:
    """Total weight of each item's pairs [num_items], in a second scan: PPMI needs every row's sum before any score."""
    merged = _merge(units, lambda batches: st.sum_batches(batches, shape, weights, num_items), num_items, 1)
    row_sums: NDArray[np.float64] = st.read_sums(merged, num_items, 1)[0][0] / weights.rule.scale
    return row_sums


def _merge(units: DataFrame, work: "Work", num_items: int, num_values: int) -> "pa.Table":
    """Partial rows of each partition, joined by part where they lie, not on the driver."""
    partial = units.mapInArrow(work, st.PARTIAL_SCHEMA).repartitionById(st.num_parts(num_items), "part")
    return partial.mapInArrow(
        lambda batches: st.merge_batches(batches, num_items, num_values), st.PARTIAL_SCHEMA
    ).toArrow()


def plan_work(units: DataFrame, stats: UnitStats, config: GraphConfig) -> tuple[PairWeights, BlockPlan]:
    """Weights and blocks for these units; reads nothing.

    Raises: DataError when a task cannot stay within ``graph.task_memory_mb``.
    """
    shape = unit_shape(config)
    max_weight = stats.max_item_weight if shape.use_event_weights else 1.0
    weights = pair_weights(config, stats.num_units, stats.longest, max_weight, stats.newest_us)
    blocks = plan_blocks(
        stats,
        byte_costs(shape.ordered, weights.rule.mode != PLAIN, shape.use_event_weights, shape.by_user),
        num_cores=units.sparkSession.sparkContext.defaultParallelism,
        task_memory_mb=config.task_memory_mb,
        num_blocks=config.num_blocks,
    )
    return weights, blocks


def plan_graph(
    units: DataFrame, stats: UnitStats, config: GraphConfig, work: tuple[PairWeights, BlockPlan]
) -> GraphPlan:
    """All that map and reduce tasks need; for PPMI, one more scan."""
    weights, blocks = work
    shape = unit_shape(config)
    row_sums = sum_rows(units, shape, weights, len(stats.costs)) if config.score == "ppmi" else None
    return GraphPlan(shape, weights, blocks, score_rule(config, *score_counts(config, stats), row_sums))


def build_edges(units: DataFrame, plan: GraphPlan) -> DataFrame:
    """Rows of `item_graph`, not yet computed: pack, one shuffle with exactly one block a task, reduce."""
    by_block, shared = shuffle_units(units, plan)
    return by_block.mapInArrow(lambda batches: reduce_batches(batches, shared.value), spark_schema(ITEM_GRAPH))


def shuffle_units(units: DataFrame, plan: GraphPlan) -> tuple[DataFrame, Broadcast[GraphPlan]]:
    """(packed units, one block or hot item a partition; the plan for the workers)."""
    shared = units.sparkSession.sparkContext.broadcast(plan)
    packed = units.mapInArrow(lambda batches: pack_batches(batches, shared.value), PACKED_SCHEMA)
    # The column must be INT; other partitionings put blocks together and leave tasks empty.
    return packed.repartitionById(plan.blocks.num_tasks, "block"), shared
