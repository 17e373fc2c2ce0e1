"""Stage graph (and item_knn_graph): train sessions or histories -> `item_graph`, by one shuffle.

Laptop:   spark-submit --properties-file conf/spark/local.properties jobs/build_graph.py conf/quickstart.yaml
Cluster:  spark-submit --properties-file conf/spark/cluster.properties --py-files recspark.zip jobs/build_graph.py CONF
"""

from typing import Any

import numpy as np
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEM_GRAPH
from recspark.errors import DataError
from recspark.faults import fault_point
from recspark.graph.blocks import MB, BlockPlan, UnitStats
from recspark.graph.cooccurrence import build_edges, count_units, plan_graph, session_units, user_units
from recspark.graph.pairs import unit_shape
from recspark.graph.warm_up import compile_kernels
from recspark.lake.arrow import TableAt, find_table, open_table
from recspark.lake.spark import read_table, write_table
from recspark.logs import log

NUM_SHOWN_ITEMS = 5


def build_graph(spark: SparkSession, run: Run, stage: str = "graph") -> None:
    """Builds and commits the `item_graph` of a stage: ``graph``, or ``item_knn_graph`` with the baseline's own config.

    Raises: DataError when there is no pair of items to connect, when event weights are negative or no numbers, or
        when a task cannot stay within ``graph.task_memory_mb``.
    """
    config = _config_of(run, stage)
    sessions_stage = run.producer("sessions")
    source = find_table(run.lake, sessions_stage, "sessions" if config.group == "session" else "user_histories")
    items = find_table(run.lake, sessions_stage, "items")
    num_items = open_table(run.lake, items.name, items.version).count()
    compile_kernels()
    units = read_units(spark, source, config)
    stats = count_units(units, unit_shape(config), num_items)
    check_stats(stats, config)
    plan = plan_graph(units, stats, config)
    log_plan(stage, stats, plan.blocks)
    edges = build_edges(units, plan).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        counts = count_graph(edges, stats)
        check_edges(counts, config)
        fault_point(f"{stage}.before_commit")
        record = run.record(
            stage,
            is_marker=True,
            inputs={source.name: source.version, items.name: items.version},
            counts=counts,
            facts={"num_items": num_items, "group": config.group, "score": config.score},
        )
        version = write_table(edges, run.lake, ITEM_GRAPH, record)
        fault_point(f"{stage}.after_commit")
    finally:
        edges.unpersist()
    log(stage, f"done at version {version}", **{k: counts[k] for k in ("num_rows", "num_edges", "num_units")})


def read_units(spark: SparkSession, source: TableAt, config: GraphConfig) -> DataFrame:
    """The units of ``graph.group``: train sessions, or the train part of each user's history."""
    rows, shape = read_table(spark, source), unit_shape(config)
    return session_units(rows, shape, config.max_user_events) if config.group == "session" else user_units(rows, shape)


def check_stats(stats: UnitStats, config: GraphConfig) -> None:
    """Checks that there is something to connect.

    Raises: DataError without any pair, or with event weights that cannot be summed.
    """
    if stats.bad_weights:
        raise DataError(
            f"graph.use_event_weights: {stats.bad_weights:,} of {stats.num_events:,} train events have a weight that "
            "is negative or not a number; drop them by a rule, mend the weight column, or turn use_event_weights off"
        )
    if stats.num_pairs == 0:
        other = "; try graph.group: user" if config.group == "session" else ""
        raise DataError(
            f"item_graph would be empty: none of the {stats.num_units:,} train {config.group}s holds two different "
            f"items ({stats.num_events:,} events){other}, a longer sessions.gap_seconds, a lower "
            "vocabulary.min_item_events, or a later split.cut"
        )


def check_edges(counts: dict[str, Any], config: GraphConfig) -> None:
    """Checks that pruning left an edge.

    Raises: DataError when it did not, with the settings that prune.
    """
    if counts["num_edges"] == 0:
        raise DataError(
            f"item_graph would be empty: {counts['num_pairs']:,} pairs in {counts['num_units']:,} {config.group}s, but "
            f"none passes graph.min_support {config.min_support}, graph.window {config.window}, event weights and "
            f"graph.score {config.score} above 0; lower min_support, widen the window or take another score"
        )


def count_graph(edges: DataFrame, stats: UnitStats) -> dict[str, Any]:
    """Counts for the commit; computes the edges. The record of a commit is written with it, so counts come first."""
    found = edges.agg(F.count("*").alias("rows"), F.sum(F.size(c.DST_IDX)).alias("edges")).first()
    assert found is not None
    return {
        "num_units": stats.num_units,
        "num_events": stats.num_events,
        "num_items": int(np.count_nonzero(stats.unit_counts)),
        "num_pairs": stats.num_pairs,
        "pair_cost": stats.pair_cost,
        "capped_units": stats.capped_units,
        "capped_events": stats.capped_events,
        "capped_users": stats.capped_users,
        "capped_user_events": stats.capped_user_events,
        "num_rows": int(found["rows"]),
        "num_edges": int(found["edges"] or 0),
    }


def log_plan(stage: str, stats: UnitStats, blocks: BlockPlan) -> None:
    """Says what the work will take before it starts."""
    dearest = np.argsort(-stats.unit_counts, kind="stable")[:NUM_SHOWN_ITEMS]
    shown = [f"item {i} in {stats.unit_counts[i] / stats.num_units:.1%}" for i in dearest if stats.unit_counts[i]]
    log(
        stage,
        "plan",
        num_units=stats.num_units,
        pair_cost=stats.pair_cost,
        num_blocks=blocks.num_blocks,
        hot_items=len(blocks.hot_items),
        biggest_items="; ".join(shown),
        longest_unit=stats.longest,
        capped_units=stats.capped_units,
        capped_events=stats.capped_events,
        capped_users=stats.capped_users,
        capped_user_events=stats.capped_user_events,
        shuffle_mb=round(blocks.shuffle_bytes / MB, 1),
        task_mb=round(blocks.task_bytes / MB, 1),
    )


def _config_of(run: Run, stage: str) -> GraphConfig:
    config = run.config.baselines.item_knn.graph if stage == "item_knn_graph" else run.config.graph
    assert config is not None, "a run without a graph section has no stage graph"
    return config
