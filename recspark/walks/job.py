"""item_graph at one version -> walks, one commit.

item_graph {src_idx: 7, dst_idx: [2, 9], score: [.8, .3]}  ->  walks {epoch: 0, shard: 12, start_idx: 7,
                                                                      walk: [7, 2, 9, 7, 2, ...]}
"""

from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from recspark.config import Run
from recspark.config.schema import WalksConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import WALKS
from recspark.graph.csr import Csr, cap_degree, graph_from_table, symmetrize_by_max
from recspark.lake.arrow import TableAt, find_table
from recspark.lake.arrow import read_table as read_arrow
from recspark.lake.spark import read_table, write_table
from recspark.logs import log
from recspark.walks.graph_files import GraphFiles
from recspark.walks.plan import WalkPlan, find_starts, plan_walks
from recspark.walks.replicated import compile_kernels, count_walks, publish_graph, unsorted_writes, walk_frame
from recspark.walks.walk_graph import Bias, build_walk_graph, make_bias
from recspark.walks.workers import NUM_SHARDS, WalkTask

STAGE = "walks"


def build_walks(spark: SparkSession, run: Run) -> None:
    """Runs the stage for the item graph of this run's key, whichever stage made that.

    Raises: DataError when the graph has no edge to walk on or is damaged; SetupError when the disk has no room for the
        workers' copy.
    """
    config = run.config.walks
    assert config is not None, "a run without a walks section has no such stage"
    graph_at = find_table(run.lake, run.producer("item_graph"), "item_graph")
    items_at = find_table(run.lake, run.producer("items"), "items")
    graph = prepare_graph(read_graph(graph_at, read_table(spark, items_at).count()), config)
    bias = make_bias(config.p, config.q)
    plan = plan_walks(graph, config, bias, spark.sparkContext.defaultParallelism)
    log(STAGE, "plan", **plan.facts())
    files = publish_graph(
        spark,
        _identity(graph_at, config, bias),
        lambda: (build_walk_graph(graph, bias, config.weighted), find_starts(graph)),
    )
    task = plan_task(plan, files, config, run.seed)
    compile_kernels(task)
    counts = count_walks(spark, task, plan.num_partitions, plan.has_dead_ends)
    counts |= {"num_nodes": plan.num_nodes, "num_edges": plan.num_edges, "isolated": plan.isolated}
    record = run.record(
        STAGE,
        is_marker=True,
        inputs={table.name: table.version for table in (graph_at, items_at)},
        counts=counts,
        facts={"num_items": plan.num_nodes, "num_shards": NUM_SHARDS, "mode": plan.mode},
    )
    with unsorted_writes(spark, config.num_epochs):
        version = write_table(walk_frame(spark, task, plan.num_partitions), run.lake, WALKS, record)
    log(STAGE, f"done at version {version}", **counts)


def read_graph(table: TableAt, num_items: int) -> Csr:
    """The pinned item graph over all items, isolated ones included."""
    return graph_from_table(read_arrow(table, [c.SRC_IDX, c.DST_IDX, c.SCORE]), num_items)


def prepare_graph(graph: Csr, config: WalksConfig) -> Csr:
    """The graph to walk on: joined with its reverse, cut to ``max_degree``, without edges of score 0 if weighted.

    Cutting may leave an edge one way only; walks are exact on such graphs too.
    """
    if config.weighted:
        graph = drop_zero_edges(graph)
    if config.symmetrize:
        graph = symmetrize_by_max(graph)
    return graph if config.max_degree is None else cap_degree(graph, config.max_degree)


def drop_zero_edges(graph: Csr) -> Csr:
    """The graph without edges that a weighted walk can never take."""
    is_kept = graph.weights > 0
    if is_kept.all():
        return graph
    before = np.concatenate([[0], np.cumsum(is_kept)])
    return Csr(before[graph.indptr], graph.indices[is_kept], graph.weights[is_kept])


def plan_task(plan: WalkPlan, files: GraphFiles, config: WalksConfig, seed: int) -> WalkTask:
    """What the workers are told."""
    return WalkTask(
        files=files,
        bias=make_bias(config.p, config.q),
        seed=seed,
        num_starts=plan.num_nodes - plan.isolated,
        num_walks=config.num_walks,
        num_epochs=config.num_epochs,
        walk_length=config.walk_length,
        num_chunks=plan.num_chunks,
    )


def _identity(graph_at: TableAt, config: WalksConfig, bias: Bias) -> dict[str, Any]:
    """What decides the arrays of the walk graph: the table's very commit and the knobs they depend on."""
    return {
        "table": graph_at.uri,
        "version": graph_at.version,
        "run_id": graph_at.record.run_id,
        "weighted": config.weighted,
        "symmetrize": config.symmetrize,
        "max_degree": config.max_degree,
        "second_order": bias.is_second_order,
        "outlier": bias.has_outlier,
    }
