"""Rows of `item_graph` to the shards of a walk graph, each built by one task: what runs in Spark's Python workers.

scan     how many edges end in each bucket of nodes, and what is wrong with them   -> ranges of nodes of equal size
pack     {src_idx 7, dst_idx [2, 900]}  ->  edges 7>2, 7>900 and, joined with their reverse, 2>7, 900>7, by shard
build    a shard's edges  ->  its arrays in the lake, one row of facts
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.graph.csr import Csr, cap_degree, csr_from_edges
from recspark.walks.bias import Bias
from recspark.walks.shard_files import write_shard
from recspark.walks.walk_graph import build_walk_graph, tight_thresholds

NUM_BUCKETS = 1 << 14
SCAN_SCHEMA = pa.schema([("edges", pa.binary()), ("flaws", pa.int64())])
PACK_SCHEMA = pa.schema([("shard", pa.int32()), ("sources", pa.binary()), ("targets", pa.binary()),
                         ("weights", pa.binary()), ("is_reverse", pa.bool_())])  # fmt: skip
FACTS_SCHEMA = pa.schema([("shard", pa.int32()), ("name", pa.string()), ("num_edges", pa.int64()),
                          ("num_starts", pa.int64()), ("num_bytes", pa.int64()), ("repeated", pa.int64())])  # fmt: skip
_PACK_ROWS = 20_000


@dataclass(frozen=True)
class ShardPlan:
    """How a graph of ``num_nodes`` is prepared and cut: shard s has nodes ``bounds[s]``..``bounds[s + 1]`` - 1."""

    num_nodes: int
    bias: Bias
    weighted: bool
    symmetrize: bool
    max_degree: int | None
    folder: str = ""
    bounds: tuple[int, ...] = ()


class Edges(NamedTuple):
    """Directed edges, one an index."""

    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]


def read_edges(batch: pa.RecordBatch) -> Edges:
    """The edges in rows of `item_graph`."""
    lists = batch.column(c.DST_IDX)
    degrees = np.diff(lists.offsets.to_numpy())
    sources = np.repeat(batch.column(c.SRC_IDX).to_numpy(), degrees)
    return Edges(sources, lists.flatten().to_numpy(), batch.column(c.SCORE).flatten().to_numpy())


def scan_batches(batches: Iterable[pa.RecordBatch], plan: ShardPlan) -> Iterator[pa.RecordBatch]:
    """One row a task: edges of each bucket of equally many nodes (int64), and how many are damaged."""
    counts, flaws = np.zeros(NUM_BUCKETS, np.int64), 0
    for batch in batches:
        edges = read_edges(batch)
        is_good = (edges.weights >= 0) & (edges.weights < np.inf)
        for ends in (edges.sources, edges.targets):
            is_good &= (ends >= 0) & (ends < plan.num_nodes)
        flaws += int(np.count_nonzero(~is_good))
        for ends in (edges.sources, edges.targets) if plan.symmetrize else (edges.sources,):
            buckets = ends[is_good].astype(np.int64) * NUM_BUCKETS // plan.num_nodes
            counts += np.bincount(buckets, minlength=NUM_BUCKETS)
    yield pa.RecordBatch.from_arrays([pa.array([counts.tobytes()]), pa.array([flaws])], schema=SCAN_SCHEMA)


def cut_nodes(counts: NDArray[np.int64], num_nodes: int, num_shards: int) -> tuple[int, ...]:
    """Bounds of at most so many ranges of about equally many edges, none empty; cuts lie between buckets."""
    reached = np.cumsum(counts)
    wanted = reached[-1] * np.arange(1, num_shards) / num_shards
    buckets = np.searchsorted(reached, wanted) + 1
    firsts = -(-buckets.astype(np.int64) * num_nodes // NUM_BUCKETS)  # the first node of a bucket
    return tuple(int(n) for n in np.unique([0, *firsts[(firsts > 0) & (firsts < num_nodes)], num_nodes]))


def pack_batches(batches: Iterable[pa.RecordBatch], plan: ShardPlan) -> Iterator[pa.RecordBatch]:
    """Edges by the shard of the node they leave; those of score 0 are none to a weighted walk."""
    for batch in batches:
        for low in range(0, batch.num_rows, _PACK_ROWS):
            edges = read_edges(batch.slice(low, _PACK_ROWS))
            if plan.weighted:
                is_kept = edges.weights > 0
                edges = Edges(edges.sources[is_kept], edges.targets[is_kept], edges.weights[is_kept])
            yield from _by_shard(edges, plan, is_reverse=False)
            if plan.symmetrize:
                yield from _by_shard(Edges(edges.targets, edges.sources, edges.weights), plan, is_reverse=True)


def _by_shard(edges: Edges, plan: ShardPlan, *, is_reverse: bool) -> Iterator[pa.RecordBatch]:
    shards = np.searchsorted(plan.bounds, edges.sources, side="right") - 1
    order = np.argsort(shards, kind="stable")
    cuts = np.cumsum(np.bincount(shards, minlength=len(plan.bounds) - 1))[:-1]
    for shard, rows in enumerate(np.split(order, cuts)):
        if len(rows):
            parts = [pa.array([values[rows].tobytes()], pa.binary()) for values in edges]
            yield pa.RecordBatch.from_arrays(
                [pa.array([shard], pa.int32()), *parts, pa.array([is_reverse])], schema=PACK_SCHEMA
            )


def build_batches(batches: Iterable[pa.RecordBatch], plan: ShardPlan) -> Iterator[pa.RecordBatch]:
    """Writes the shard whose packed edges come in; one row of facts. Nothing comes in for a shard without edges."""
    parts: dict[bool, list[Edges]] = {False: [], True: []}
    shards = set()
    for batch in batches:
        for number, shard in enumerate(batch.column("shard").to_pylist()):
            shards.add(shard)
            parts[batch.column("is_reverse")[number].as_py()].append(_unpack(batch, number))
    if not shards:
        return
    (shard,) = shards
    yield _build(shard, parts, plan)


def _unpack(batch: pa.RecordBatch, number: int) -> Edges:
    """A copy: the batch's buffers are Spark's."""
    sources, targets, weights = (batch.column(name)[number].as_buffer() for name in Edges._fields)
    ends = [np.frombuffer(buffer, np.int32).copy() for buffer in (sources, targets)]
    return Edges(ends[0], ends[1], np.frombuffer(weights, np.float32).copy())


def _build(shard: int, parts: dict[bool, list[Edges]], plan: ShardPlan) -> pa.RecordBatch:
    first, num_rows = plan.bounds[shard], plan.bounds[shard + 1] - plan.bounds[shard]
    num_given = sum(len(e.sources) for e in parts[False])
    graph = _to_csr(parts[False], first, num_rows)
    repeated = num_given - graph.num_edges
    if plan.symmetrize:
        given = Edges(np.repeat(np.arange(num_rows, dtype=np.int32), graph.degrees) + np.int32(first),
                      graph.indices, graph.weights)  # fmt: skip
        graph = _to_csr([given, *parts.pop(True)], first, num_rows)
    if plan.max_degree is not None:
        graph = cap_degree(graph, plan.max_degree)
    thresholds = tight_thresholds(graph, plan.bias, plan.weighted)
    walk_graph = build_walk_graph(graph, plan.bias, plan.weighted, first, thresholds)
    name = write_shard(plan.folder, shard, walk_graph)
    num_bytes, num_starts = sum(a.nbytes for a in walk_graph), int(np.count_nonzero(graph.degrees))
    facts = (shard, name, graph.num_edges, num_starts, num_bytes, repeated)
    return _facts(facts)


def _facts(facts: tuple[int, str, int, int, int, int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([value], field.type) for value, field in zip(facts, FACTS_SCHEMA, strict=True)], schema=FACTS_SCHEMA
    )


def _to_csr(parts: list[Edges], first: int, num_rows: int) -> Csr:
    """The rows of a range of nodes; an edge that comes twice has the larger of its weights."""
    joined = [np.concatenate([np.empty(0, kind), *values]) for kind, values in _columns(parts)]
    parts.clear()
    return csr_from_edges(joined[0] - np.int32(first), joined[1], joined[2], num_rows)


def _columns(parts: list[Edges]) -> list[tuple[type, list[NDArray[np.generic]]]]:
    kinds: tuple[type, ...] = (np.int32, np.int32, np.float32)
    return [(kind, [edges[i] for edges in parts]) for i, kind in enumerate(kinds)]
