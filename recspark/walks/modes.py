"""The two ways to hold the graph, behind one face: its size, and the walks of a piece as a Spark frame.

replicated: prepared on the driver, mapped by every machine. sharded: prepared by Spark, a range of nodes a worker.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from recspark.config.schema import WalksConfig
from recspark.contracts import columns as c
from recspark.graph.csr import Csr, cap_degree, graph_from_table, symmetrize_by_max
from recspark.lake.arrow import TableAt
from recspark.lake.arrow import read_table as read_arrow
from recspark.lake.storage import join
from recspark.walks.bursts import ShardTask
from recspark.walks.pieces import Piece
from recspark.walks.plan import GraphSize, WalkPlan, bias_of, measure_graph
from recspark.walks.replicated import compile_kernels, publish_graph, unsorted_writes, walk_frame
from recspark.walks.shard_files import ShardFiles, remove_shards
from recspark.walks.shard_graph import ShardPlan
from recspark.walks.sharded import build_shards, sharded_walks
from recspark.walks.starts import Degrees, find_starts
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.workers import WalkTask


class WalkMode(Protocol):
    """A graph that is ready to be walked on."""

    size: GraphSize

    def walks(self, piece: Piece, plan: WalkPlan) -> AbstractContextManager[DataFrame]:
        """The walks of a piece, as rows of the table."""

    def close(self) -> None:
        """Removes what no one needs once all walks are there."""


class Replicated:
    """The whole graph on every machine."""

    def __init__(self, spark: SparkSession, table: TableAt, num_items: int, config: WalksConfig, seed: int) -> None:
        self._spark, self._table, self._config, self._seed = spark, table, config, seed
        self._bias = bias_of(config)
        self._graph = prepare_graph(read_graph(table, num_items), config)
        self.size = measure_graph(self._graph, self._bias, config.weighted)

    @contextmanager
    def walks(self, piece: Piece, plan: WalkPlan) -> Iterator[DataFrame]:
        """See `WalkMode`."""
        config = self._config
        num_chunks, num_tasks = plan.cut(len(piece.epochs))
        files = publish_graph(self._spark, self._identity(), lambda: (
            build_walk_graph(self._graph, self._bias, config.weighted),
            find_starts(self._graph.indptr, num_walks=config.num_walks, by_degree=degrees_of(config, self.size)),
        ))  # fmt: skip
        task = WalkTask(files, self._bias, self._seed, config.num_walks, config.walk_length, piece, num_chunks)
        compile_kernels(task)
        with unsorted_writes(self._spark, len(piece.epochs)):
            yield walk_frame(self._spark, task, num_tasks)

    def close(self) -> None:
        """Its files go with the process."""

    def _identity(self) -> dict[str, Any]:
        """What decides the arrays: the table's very commit and the knobs they depend on."""
        knobs = ("weighted", "symmetrize", "max_degree", "starts")
        return {name: getattr(self._config, name) for name in knobs} | {
            "table": self._table.uri,
            "version": self._table.version,
            "run_id": self._table.record.run_id,
            "second_order": self._bias.is_second_order,
            "outlier": self._bias.has_outlier,
            "gamma": self._bias.gamma if self._bias.is_plus else None,
            "num_walks": self._config.num_walks if self._config.starts == "degree" else None,
        }


class Sharded:
    """A range of nodes in each worker; ``folder`` keeps the shards until all walks are there."""

    def __init__(
        self, spark: SparkSession, table: TableAt, plan: ShardPlan, num_shards: int, config: WalksConfig, seed: int
    ) -> None:
        self._spark, self._config, self._seed, self._plan = spark, config, seed, plan
        self._files: ShardFiles = build_shards(spark, table, plan, num_shards)
        self.size = GraphSize(
            num_nodes=plan.num_nodes,
            num_edges=sum(self._files.num_edges),
            num_starts=self._files.num_starts,
            num_bytes=self._files.num_bytes,
            has_dead_ends=not plan.symmetrize,
        )

    @contextmanager
    def walks(self, piece: Piece, plan: WalkPlan) -> Iterator[DataFrame]:
        """See `WalkMode`."""
        config = self._config
        task = ShardTask(
            self._files, self._plan.bias, self._seed, config.num_walks, config.walk_length,
            degrees_of(config, self.size), piece, plan.count_files(len(piece.epochs)),
        )  # fmt: skip
        with unsorted_writes(self._spark, len(piece.epochs)), sharded_walks(self._spark, task) as frame:
            yield frame

    def close(self) -> None:
        """Removes the shards."""
        remove_shards(self._plan.folder)


def shard_plan(lake: str, key: str, table: TableAt, num_items: int, num_shards: int, config: WalksConfig) -> ShardPlan:
    """How the graph is cut, and where its shards are kept."""
    folder = join(lake, "checkpoints", key[:12], f"graph-{table.version}-{num_shards}")
    return ShardPlan(num_items, bias_of(config), config.weighted, config.symmetrize, config.max_degree, folder)


def degrees_of(config: WalksConfig, size: GraphSize) -> Degrees | None:
    """What shares out walks in proportion to degrees; None where each node has as many."""
    return Degrees(size.num_starts, size.num_edges) if config.starts == "degree" else None


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
