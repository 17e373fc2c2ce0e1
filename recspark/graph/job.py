"""Stage graph (and item_knn_graph): train sessions or histories -> `item_graph`, by one shuffle.

Laptop:   spark-submit --properties-file conf/spark/local.properties jobs/build_graph.py conf/quickstart.yaml
Cluster:  spark-submit --properties-file conf/spark/cluster.properties --py-files recspark.zip jobs/build_graph.py CONF
"""

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from recspark.config import Run
from recspark.config.graph import GraphConfig
from recspark.contracts.tables import ITEM_GRAPH
from recspark.faults import fault_point
from recspark.graph.cooccurrence import (
    BuiltGraph,
    build_edges,
    count_units,
    plan_graph,
    plan_work,
    session_units,
    user_units,
)
from recspark.graph.daily_job import DailyBuild
from recspark.graph.pairs import unit_shape
from recspark.graph.report import check_edges, check_stats, count_graph, log_plan, show_biggest_users
from recspark.graph.warm_up import compile_kernels
from recspark.lake.arrow import TableAt, count_rows, find_table
from recspark.lake.spark import read_table, write_table
from recspark.logs import log


def build_graph(spark: SparkSession, run: Run, stage: str = "graph") -> None:
    """Builds and commits the `item_graph` of a stage: ``graph``, or ``item_knn_graph`` with the baseline's own config.

    Raises: DataError when there is no pair of items to connect, when event weights are negative or no numbers, or
        when a task cannot stay within ``graph.task_memory_mb``.
    """
    config = _config_of(run, stage)
    sessions_stage = run.producer("sessions")
    source = find_table(run.lake, sessions_stage, "sessions" if config.group == "session" else "user_histories")
    items = find_table(run.lake, sessions_stage, "items")
    compile_kernels()
    build = _build_daily if config.incremental else _build_whole
    built = build(spark, run, stage, source, items)
    edges = built.edges.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        counts = count_graph(edges, built.stats) | built.counts
        check_edges(counts, config)
        fault_point(f"{stage}.before_commit")
        record = run.record(
            stage,
            is_marker=True,
            tables=built.tables,
            inputs={source.name: source.version, items.name: items.version},
            counts=counts,
            facts={"num_items": count_rows(items), "group": config.group, "score": config.score, **built.facts},
        )
        version = write_table(edges, run.lake, ITEM_GRAPH, record)
        fault_point(f"{stage}.after_commit")
    finally:
        for frame in (edges, *built.held):
            frame.unpersist()
    log(stage, f"done at version {version}", **{k: counts[k] for k in ("num_rows", "num_edges", "num_units")})


def _build_whole(spark: SparkSession, run: Run, stage: str, source: TableAt, items: TableAt) -> BuiltGraph:
    config = _config_of(run, stage)
    units = read_units(spark, source, config)
    stats = count_units(units, unit_shape(config), count_rows(items))
    check_stats(stats, config)
    work = plan_work(units, stats, config)
    log_plan(stage, stats, work[1], biggest_users=show_biggest_users(source))
    return BuiltGraph(build_edges(units, plan_graph(units, stats, config, work)), stats)


def _build_daily(spark: SparkSession, run: Run, stage: str, source: TableAt, items: TableAt) -> BuiltGraph:
    return DailyBuild(spark, run, stage, _config_of(run, stage), count_rows(items)).build(source, items)


def read_units(spark: SparkSession, source: TableAt, config: GraphConfig) -> DataFrame:
    """The units of ``graph.group``: train sessions, or the train part of each user's history."""
    rows, shape = read_table(spark, source), unit_shape(config)
    return session_units(rows, shape, config.max_user_events) if config.group == "session" else user_units(rows, shape)


def _config_of(run: Run, stage: str) -> GraphConfig:
    config = run.config.baselines.item_knn.graph if stage == "item_knn_graph" else run.config.graph
    assert config is not None, "a run without a graph section has no stage graph"
    return config
