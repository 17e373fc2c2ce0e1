"""The item graph as arrays (compressed sparse rows): what walks step on and what item-kNN sums. No engine.

src_idx 4, dst_idx [9, 2], score [.7, .3]   ->   indices[indptr[4]:indptr[5]] = [2, 9], weights = [.3, .7]
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import DataError


@dataclass(frozen=True)
class Csr:
    """A weighted directed graph: neighbours of node v are ``indices[indptr[v]:indptr[v + 1]]``, ascending, distinct."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: NDArray[np.float32]

    @property
    def num_nodes(self) -> int:
        """Nodes, isolated ones included."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        """Directed edges."""
        return len(self.indices)

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Neighbours of each node [num_nodes]."""
        return np.diff(self.indptr)


def graph_from_table(rows: pa.Table, num_nodes: int) -> Csr:
    """The graph in rows of `item_graph` (src_idx, dst_idx, score), in any order.

    The commit's facts say how many items there are (``num_items``).

    Raises: DataError for a node outside 0..num_nodes-1, a node with two rows, an edge that stands twice, or a score
        that is negative or not a number.
    """
    batches = [b for b in rows.to_batches() if b.num_rows]
    degrees = _degrees(batches, num_nodes)
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    indices, weights = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    for batch in batches:
        nodes = batch.column(c.SRC_IDX).to_numpy()
        places = _places(indptr[nodes], degrees[nodes])
        indices[places] = batch.column(c.DST_IDX).flatten().to_numpy()
        weights[places] = batch.column(c.SCORE).flatten().to_numpy()
    _check_edges(indices, weights, num_nodes)
    graph = _sort_rows(Csr(indptr, indices, weights))
    _check_distinct(graph)
    return graph


def symmetrize_by_max(graph: Csr) -> Csr:
    """Each edge in both directions, with the larger of its two weights: pruning leaves a directed graph."""
    sources = _sources(graph)
    both = np.concatenate([sources, graph.indices]), np.concatenate([graph.indices, sources])
    return csr_from_edges(*both, np.concatenate([graph.weights, graph.weights]), graph.num_nodes)


def csr_from_edges(
    sources: NDArray[np.int32], targets: NDArray[np.int32], weights: NDArray[np.float32], num_nodes: int
) -> Csr:
    """The graph of directed edges in any order; of edges that stand several times, the heaviest."""
    keys = _keys(sources, targets)
    order = np.argsort(keys, kind="stable")
    keys, weights = keys[order], weights[order]
    firsts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    return _from_keys(keys[firsts], np.maximum.reduceat(weights, firsts) if len(keys) else weights, num_nodes)


def cap_degree(graph: Csr, max_degree: int) -> Csr:
    """Each node's ``max_degree`` heaviest edges; equal weights by the smaller neighbour. May leave edges one way."""
    sources = _sources(graph)
    order = np.lexsort((graph.indices, -graph.weights, sources))
    rank = np.arange(graph.num_edges) - np.repeat(graph.indptr[:-1], graph.degrees)
    kept = np.sort(order[rank < max_degree])
    degrees = np.minimum(graph.degrees, max_degree)
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    return Csr(indptr, graph.indices[kept], graph.weights[kept])


def _degrees(batches: list[pa.RecordBatch], num_nodes: int) -> NDArray[np.int64]:
    degrees = np.zeros(num_nodes, np.int64)
    has_row = np.zeros(num_nodes, np.bool_)
    for batch in batches:
        nodes = batch.column(c.SRC_IDX).to_numpy()
        if nodes.min() < 0 or nodes.max() >= num_nodes:
            raise DataError(f"item_graph: src_idx {_outside(nodes, num_nodes)} is not among the {num_nodes} items")
        again = nodes[has_row[nodes]]
        if len(again) or len(np.unique(nodes)) < len(nodes):
            raise DataError("item_graph: an item has two rows, expected one; build the graph again")
        has_row[nodes] = True
        degrees[nodes] = np.diff(batch.column(c.DST_IDX).offsets.to_numpy())
    return degrees


def _check_edges(indices: NDArray[np.int32], weights: NDArray[np.float32], num_nodes: int) -> None:
    if len(indices) and (indices.min() < 0 or indices.max() >= num_nodes):
        raise DataError(f"item_graph: dst_idx {_outside(indices, num_nodes)} is not among the {num_nodes} items")
    num_bad = len(weights) - int(np.count_nonzero((weights >= 0) & (weights < np.inf)))
    if num_bad:
        raise DataError(
            f"item_graph: {num_bad:,} of {len(weights):,} scores are negative or not finite; "
            "expected weights >= 0; mend them at the source or choose another graph.score"
        )


def _check_distinct(graph: Csr) -> None:
    keys = _keys(_sources(graph), graph.indices)
    if len(keys) and bool((keys[1:] == keys[:-1]).any()):
        raise DataError("item_graph: an edge stands twice in a row of neighbours; build the graph again")


def _outside(nodes: NDArray[np.int32], num_nodes: int) -> int:
    return int(nodes[(nodes < 0) | (nodes >= num_nodes)][0])


def _places(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices start, start + 1, ... of each run, one run after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    places: NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return places


def _sort_rows(graph: Csr) -> Csr:
    order = np.argsort(_keys(_sources(graph), graph.indices), kind="stable")
    return Csr(graph.indptr, graph.indices[order], graph.weights[order])


def _sources(graph: Csr) -> NDArray[np.int32]:
    return np.repeat(np.arange(graph.num_nodes, dtype=np.int32), graph.degrees)


def _keys(sources: NDArray[np.int32], targets: NDArray[np.int32]) -> NDArray[np.int64]:
    return (sources.astype(np.int64) << 32) | targets.astype(np.int64)


def _from_keys(keys: NDArray[np.int64], weights: NDArray[np.float32], num_nodes: int) -> Csr:
    degrees = np.bincount(keys >> 32, minlength=num_nodes)
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    return Csr(indptr, (keys & 0xFFFFFFFF).astype(np.int32), weights.astype(np.float32))
