"""What a build of walks will cost and how it is cut, before any of it is spent."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.config.schema import WalksConfig
from recspark.contracts.shards import hash_ids
from recspark.errors import DataError
from recspark.graph.csr import Csr
from recspark.walks.walk_graph import Bias, walk_graph_bytes

CHUNK_TOKENS = 1_000_000
"""Nodes of a kernel call and of the Arrow batch it makes: 4 MB."""
TASK_TOKENS = 200_000_000
"""Nodes of a Spark task at most, so of a Parquet file: some hundred MB."""
STEPS_PER_SECOND = {False: 4e6, True: 1.5e6}
"""Of one core through Spark into Delta, without and with second order: what modest machines reach."""


@dataclass(frozen=True)
class WalkPlan:
    """Sizes and costs; ``isolated`` nodes have no edge to leave by and start no walk."""

    mode: str
    why: str
    num_nodes: int
    num_edges: int
    isolated: int
    graph_bytes: int
    total_walks: int
    max_steps: int
    has_dead_ends: bool
    num_chunks: int
    num_partitions: int
    estimated_seconds: float

    def facts(self) -> dict[str, Any]:
        """What the log shows."""
        return {
            "nodes": self.num_nodes,
            "edges": self.num_edges,
            "isolated": self.isolated,
            "graph_bytes": self.graph_bytes,
            "mode": self.mode,
            "why": self.why,
            "walks": self.total_walks,
            "steps": self.max_steps,
            "tasks": self.num_partitions,
            "estimated_seconds": round(self.estimated_seconds, 1),
        }


def plan_walks(graph: Csr, config: WalksConfig, bias: Bias, cores: int) -> WalkPlan:
    """The plan for a graph on so many cores.

    Raises: DataError when no node has an edge.
    """
    num_starts = int(np.count_nonzero(graph.degrees))
    if not num_starts:
        raise DataError(
            f"item_graph: none of its {graph.num_nodes:,} items has a neighbour, walks need edges; "
            f"lower graph.min_support, or check that sessions hold more than one item"
        )
    total_walks = num_starts * config.num_walks * config.num_epochs
    tokens = total_walks * config.walk_length
    num_chunks = min(total_walks, -(-tokens // CHUNK_TOKENS))
    max_steps = tokens - total_walks
    return WalkPlan(
        mode="replicated",
        why="every worker maps one copy of the graph a machine" if config.mode == "auto" else "walks.mode says so",
        num_nodes=graph.num_nodes,
        num_edges=graph.num_edges,
        isolated=graph.num_nodes - num_starts,
        graph_bytes=walk_graph_bytes(graph.num_nodes, graph.num_edges, bias, config.weighted),
        total_walks=total_walks,
        max_steps=max_steps,
        has_dead_ends=bool((graph.degrees[graph.indices] == 0).any()),
        num_chunks=num_chunks,
        num_partitions=min(num_chunks, max(cores, -(-tokens // TASK_TOKENS))),
        estimated_seconds=max_steps / STEPS_PER_SECOND[bias.is_second_order] / max(1, min(cores, num_chunks)),
    )


def find_starts(graph: Csr) -> NDArray[np.int32]:
    """The nodes that can be left, in an order that mixes them: ids are sorted by popularity, files shall not be."""
    starts = np.flatnonzero(graph.degrees).astype(np.int32)
    return starts[np.argsort(hash_ids(starts), kind="stable")]
