# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""The tables that walks read, derived from a CSR: alias records, weights of return edges, a Bloom filter of the edges.

Row v of the CSR, neighbours [2, 5, 9] with weights [1, 2, 1], becomes three records of 16 bytes: a coin, the alias
(another place of the row), the neighbour at the place and the neighbour at the alias.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.graph.csr import Csr
from recspark.walks.alias import pair_columns
from recspark.walks.bias import Bias
from recspark.walks.rng import mix

COIN_SCALE = 2147483647.0
"""Thresholds of alias records are 31-bit integers."""

_BLOOM_BITS_PER_EDGE = 16
_BLOOM_KEY = np.uint64(0xD6E8FEB86659FD93)


class WalkGraph(NamedTuple):
    """A graph ready to walk on: CSR (rows sorted by neighbour) and what was derived from it.

    n nodes, m edges; of a shard these are its own, while neighbours and ``thresholds`` are numbered as in the whole
    graph. ``records`` is empty for unweighted graphs, ``return_weights`` and ``weight_sums`` without an outlier area,
    ``bloom`` for p = q = 1, ``thresholds`` but for node2vec+.
    """

    indptr: NDArray[np.int64]  # [n + 1]
    indices: NDArray[np.int32]  # [m]
    weights: NDArray[np.float32]  # [m]
    records: NDArray[np.int32]  # [m, 4]: coin, alias (offset in the row), neighbour, alias's neighbour; one cache line
    weight_sums: NDArray[np.float64]  # [n]
    return_weights: NDArray[np.float32]  # [m]: for the edge t -> v the weight of v -> t, 0 where there is none
    bloom: NDArray[np.uint64]  # [2^k / 64]: one bit an edge
    thresholds: NDArray[np.float32]  # [all nodes]: an edge that reaches or leaves the node is tight from here on


def build_walk_graph(
    graph: Csr, bias: Bias, weighted: bool = True, first: int = 0, thresholds: NDArray[np.float32] | None = None
) -> WalkGraph:
    """The tables that walks under ``bias`` need.

    ``weighted=False`` walks uniformly over neighbours. Row 0 of ``graph`` is node ``first``: a shard's, whose
    ``thresholds`` are those of the whole graph. Costs one pass over the edges (two with an outlier area) and 16
    (records) + 4 (return weights) + 2 to 4 (Bloom filter) bytes an edge.
    """
    n, m = graph.num_nodes, graph.num_edges
    indptr, indices = graph.indptr, graph.indices
    weights = graph.weights if weighted else np.ones(m, np.float32)
    records = np.empty((m if weighted else 0, 4), np.int32)
    weight_sums = np.zeros(n if bias.has_outlier else 0, np.float64)
    return_weights = np.empty(m if bias.has_outlier else 0, np.float32)
    bloom = np.zeros(_bloom_words(m) if bias.is_second_order else 0, np.uint64)
    if thresholds is None:
        thresholds = tight_thresholds(graph, bias, weighted)
    if weighted:
        _fill_records(indptr, indices, weights, records)
    if bias.has_outlier:
        _fill_return_weights(indptr, indices, weights, first, weight_sums, return_weights)
    if bias.is_second_order:
        _fill_bloom(indptr, indices, first, bloom)
    return WalkGraph(indptr, indices, weights, records, weight_sums, return_weights, bloom, thresholds)


def tight_thresholds(graph: Csr, bias: Bias, weighted: bool = True) -> NDArray[np.float32]:
    """Each node's mean weight + gamma x standard deviation [n]; empty but for node2vec+.

    Source: Liu, Hirn & Krishnan 2023 (node2vec+), section 2.2. A node without edges gets 0.
    """
    if not bias.is_plus:
        return np.empty(0, np.float32)
    thresholds = np.empty(graph.num_nodes, np.float32)
    weights = graph.weights if weighted else np.ones(graph.num_edges, np.float32)
    _fill_thresholds(graph.indptr, weights, bias.gamma, thresholds)
    return thresholds


def walk_graph_bytes(num_nodes: int, num_edges: int, bias: Bias, weighted: bool = True) -> int:
    """Bytes of the graph that `build_walk_graph` makes."""
    return (
        8 * (num_nodes + 1)
        + 8 * num_edges
        + (16 * num_edges if weighted else 0)
        + (8 * num_nodes + 4 * num_edges if bias.has_outlier else 0)
        + (8 * _bloom_words(num_edges) if bias.is_second_order else 0)
        + (4 * num_nodes if bias.is_plus else 0)
    )


def _bloom_words(num_edges: int) -> int:
    """64-bit words of a filter with 16 to 32 bits an edge, a power of two."""
    return 1 << max(0, (max(num_edges, 1) * _BLOOM_BITS_PER_EDGE - 1).bit_length() - 6)


@njit(cache=True, nogil=True)
def find_edge(indptr: NDArray[np.int64], indices: NDArray[np.int32], row: int, dst: int) -> int:
    """The position of the edge from the node of ``row`` to ``dst``, -1 where there is none."""
    return find_in(indices, indptr[row], indptr[row + 1], dst)


@njit(cache=True, nogil=True)
def find_in(ascending: NDArray[np.int32], low: int, stop: int, wanted: int) -> int:
    """Where in ``ascending[low:stop]`` a number stands, -1 where it does not; branch-free binary search."""
    count = stop - low
    if count == 0:
        return -1
    while count > 1:
        half = count >> 1
        low = low + half if ascending[low + half] <= wanted else low
        count -= half
    return low if ascending[low] == wanted else -1


@njit(cache=True, nogil=True)
def bloom_bit(src: int, dst: int, shift: np.uint64) -> np.uint64:
    """The filter's bit for an edge: the upper end of 64 mixed bits."""
    return mix(((np.uint64(src) << np.uint64(32)) | np.uint64(dst)) ^ _BLOOM_KEY) >> shift


@njit(cache=True, nogil=True)
def bloom_shift(bloom: NDArray[np.uint64]) -> np.uint64:
    """How far a 64-bit hash is shifted to number a bit of the filter."""
    shift, bits = 64, len(bloom) * 64
    while bits > 1:
        bits >>= 1
        shift -= 1
    return np.uint64(shift)


@njit(cache=True, nogil=True)
def _fill_records(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], weights: NDArray[np.float32], records: NDArray[np.int32]
) -> None:
    """One alias table a node, with the neighbours beside the coins so that a proposal is one memory access."""
    widest = 0
    for v in range(len(indptr) - 1):
        widest = max(widest, indptr[v + 1] - indptr[v])
    scaled, alias, stack = np.empty(widest), np.empty(widest, np.int32), np.empty(widest, np.int32)
    for v in range(len(indptr) - 1):
        first, degree = indptr[v], indptr[v + 1] - indptr[v]
        total = 0.0
        for i in range(degree):
            total += weights[first + i]
        for i in range(degree):
            scaled[i] = weights[first + i] / total * degree
        pair_columns(scaled[:degree], alias[:degree], stack[:degree])
        for i in range(degree):
            records[first + i, 0] = np.int32(min(scaled[i], 1.0) * COIN_SCALE)
            records[first + i, 1] = alias[i]
            records[first + i, 2] = indices[first + i]
            records[first + i, 3] = indices[first + alias[i]]


@njit(cache=True, nogil=True)
def _fill_return_weights(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    weights: NDArray[np.float32],
    first: int,
    weight_sums: NDArray[np.float64],
    return_weights: NDArray[np.float32],
) -> None:
    """Each node's sum of weights, and for each edge t -> v the weight of v -> t: in a directed graph perhaps none.

    Where v is in another shard, its own rows tell the weight when a walker gets there.
    """
    n = len(indptr) - 1
    for row in range(n):
        for edge in range(indptr[row], indptr[row + 1]):
            weight_sums[row] += weights[edge]
            target = indices[edge] - first
            back = find_edge(indptr, indices, target, row + first) if 0 <= target < n else -1
            return_weights[edge] = weights[back] if back >= 0 else np.float32(0.0)


@njit(cache=True, nogil=True)
def _fill_bloom(indptr: NDArray[np.int64], indices: NDArray[np.int32], first: int, bloom: NDArray[np.uint64]) -> None:
    """Sets the bit of every directed edge."""
    shift = bloom_shift(bloom)
    for row in range(len(indptr) - 1):
        for edge in range(indptr[row], indptr[row + 1]):
            bit = bloom_bit(row + first, indices[edge], shift)
            bloom[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@njit(cache=True, nogil=True)
def _fill_thresholds(
    indptr: NDArray[np.int64], weights: NDArray[np.float32], gamma: float, thresholds: NDArray[np.float32]
) -> None:
    for row in range(len(indptr) - 1):
        degree = indptr[row + 1] - indptr[row]
        total, squares = 0.0, 0.0
        for edge in range(indptr[row], indptr[row + 1]):
            total += weights[edge]
        mean = total / max(degree, 1)
        for edge in range(indptr[row], indptr[row + 1]):
            squares += (weights[edge] - mean) ** 2
        thresholds[row] = np.float32(mean + gamma * np.sqrt(squares / max(degree, 1)))
