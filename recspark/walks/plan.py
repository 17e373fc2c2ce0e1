"""What a build of walks will cost, in which mode and how it is cut, before any of it is spent."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from recspark.config.schema import WalksConfig
from recspark.errors import DataError
from recspark.graph.csr import Csr
from recspark.memory import gib
from recspark.walks.bias import Bias, make_bias
from recspark.walks.pieces import count_parts, plan_pieces
from recspark.walks.walk_graph import walk_graph_bytes

CHUNK_TOKENS = 1_000_000
"""Nodes of a kernel call and of the Arrow batch it makes: 4 MB."""
TASK_TOKENS = 200_000_000
"""Nodes of a Spark task at most, so of a Parquet file: some hundred MB."""
FILE_TOKENS = 20_000_000
"""Nodes of a file in sharded mode, where a task sorts what it writes."""
BUILD_BYTES_PER_EDGE = 100
"""What a process holds while it joins edges with their reverse, sorts them and makes alias tables."""
SHARD_MB = 1024
STEPS_PER_SECOND = {("replicated", False): 4e6, ("replicated", True): 1.5e6,
                    ("sharded", False): 6e4, ("sharded", True): 6e4}  # fmt: skip
"""Of one core through Spark into Delta, without and with second order: what modest machines reach. Sharded: measured on
50,000 nodes with 10^6 edges in 8 shards (most steps are a move), by two cores that had other work to do."""
ROUND_SECONDS = 1.7
"""What a round of sharded mode costs before anyone walks: a Spark job. Measured with the rate."""


class GraphSize(NamedTuple):
    """Numbers of the graph as it is walked on; starts are the nodes that can be left."""

    num_nodes: int
    num_edges: int
    num_starts: int
    num_bytes: int
    has_dead_ends: bool


class Mode(NamedTuple):
    """How the graph is held, and why; ``num_shards`` is 1 for replicated."""

    name: str
    why: str
    num_shards: int


@dataclass(frozen=True)
class WalkPlan:
    """Sizes and costs; ``isolated`` nodes have no edge to leave by and start no walk."""

    mode: Mode
    size: GraphSize
    isolated: int
    total_walks: int
    epoch_tokens: int
    max_steps: int
    num_parts: int
    cores: int
    estimated_seconds: float

    def facts(self) -> dict[str, Any]:
        """What the log shows."""
        return {
            "nodes": self.size.num_nodes,
            "edges": self.size.num_edges,
            "isolated": self.isolated,
            "graph_bytes": self.size.num_bytes,
            "mode": self.mode.name,
            "why": self.mode.why,
            "shards": self.mode.num_shards,
            "walks": self.total_walks,
            "steps": self.max_steps,
            "parts_an_epoch": self.num_parts,
            "estimated_seconds": round(self.estimated_seconds, 1),
        }

    def cut(self, num_epochs: int) -> tuple[int, int]:
        """(chunks, tasks) of a piece that holds one part of so many epochs."""
        tokens = max(1, self.epoch_tokens * num_epochs // self.num_parts)
        num_chunks = -(-tokens // CHUNK_TOKENS)
        return num_chunks, min(num_chunks, max(self.cores, -(-tokens // TASK_TOKENS)))

    def count_files(self, num_epochs: int) -> int:
        """Files of such a piece in sharded mode."""
        tokens = max(1, self.epoch_tokens * num_epochs // self.num_parts)
        return max(min(self.cores, -(-tokens // CHUNK_TOKENS)), -(-tokens // FILE_TOKENS))


def bias_of(config: WalksConfig) -> Bias:
    """The rule of a step."""
    return make_bias(
        config.p,
        config.q,
        plus=config.variant == "node2vec_plus" and config.weighted,
        gamma=config.gamma,
        restart=config.restart_probability,
    )


def choose_mode(config: WalksConfig, table_edges: int, cores: int, free_bytes: int) -> Mode:
    """The mode that ``walks.mode`` says, or that the memory allows; decided before any edge is read."""
    most_edges = table_edges * (2 if config.symmetrize else 1)
    needed = most_edges * BUILD_BYTES_PER_EDGE
    shard_bytes = (config.graph_memory_mb or SHARD_MB) << 20
    num_shards = config.num_shards or max(cores, -(-needed // shard_bytes))
    limit = config.graph_memory_mb << 20 if config.graph_memory_mb else free_bytes // 2
    if config.mode != "auto":
        return Mode(config.mode, "walks.mode says so", num_shards if config.mode == "sharded" else 1)
    asked = "walks.graph_memory_mb" if config.graph_memory_mb else "half of the free memory"
    if needed > limit:
        why = f"building the graph may take {gib(needed)}, {asked} is {gib(limit)}: workers hold a shard each"
        return Mode("sharded", why, num_shards)
    why = f"building the graph takes at most {gib(needed)} of {gib(limit)} ({asked}): every machine maps all of it"
    return Mode("replicated", why, 1)


def measure_graph(graph: Csr, bias: Bias, weighted: bool) -> GraphSize:
    """The numbers of a graph in memory."""
    return GraphSize(
        num_nodes=graph.num_nodes,
        num_edges=graph.num_edges,
        num_starts=int(np.count_nonzero(graph.degrees)),
        num_bytes=walk_graph_bytes(graph.num_nodes, graph.num_edges, bias, weighted),
        has_dead_ends=bool((graph.degrees[graph.indices] == 0).any()),
    )


def plan_walks(size: GraphSize, config: WalksConfig, mode: Mode, cores: int) -> WalkPlan:
    """The plan for a graph on so many cores.

    Raises: DataError when no node has an edge.
    """
    if not size.num_starts:
        raise DataError(
            f"item_graph: none of its {size.num_nodes:,} items has a neighbour, walks need edges; "
            f"lower graph.min_support, or check that sessions hold more than one item"
        )
    epoch_walks = size.num_starts * config.num_walks
    epoch_tokens = epoch_walks * config.walk_length
    max_steps = (epoch_tokens - epoch_walks) * config.num_epochs
    at_once = max(1, min(cores, -(-epoch_tokens * config.num_epochs // CHUNK_TOKENS)))
    rate = STEPS_PER_SECOND[mode.name, bias_of(config).is_second_order]
    return WalkPlan(
        mode=mode,
        size=size,
        isolated=size.num_nodes - size.num_starts,
        total_walks=epoch_walks * config.num_epochs,
        epoch_tokens=epoch_tokens,
        max_steps=max_steps,
        num_parts=count_parts(epoch_tokens, config.chunk_tokens),
        cores=cores,
        estimated_seconds=max_steps / rate / at_once + _rounds_seconds(mode, config, epoch_tokens),
    )


def _rounds_seconds(mode: Mode, config: WalksConfig, epoch_tokens: int) -> float:
    """Time of all rounds of all pieces, 0 where there are none."""
    if mode.num_shards == 1:
        return 0.0
    num_pieces = len(plan_pieces(config.num_epochs, epoch_tokens, config.chunk_tokens))
    return ROUND_SECONDS * num_pieces * (config.walk_length - 1)
