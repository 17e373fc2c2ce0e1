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
from recspark.walks.rng import mix

COIN_SCALE = 2147483647.0
"""Thresholds of alias records are 31-bit integers."""

_BLOOM_BITS_PER_EDGE = 16
_BLOOM_KEY = np.uint64(0xD6E8FEB86659FD93)


class Bias(NamedTuple):
    """p and q as the kernel uses them."""

    is_second_order: bool  # false for p = q = 1: every proposal is taken
    has_outlier: bool  # 1/p above the ceiling: the return edge's surplus is an area of its own
    inverse_p: float
    inverse_q: float
    ceiling: float  # max(1, 1/q): what a bias is divided by
    floor: float  # min(1, 1/q) / ceiling: below this chance, any x but t is accepted
    near_wins: bool  # above the floor, neighbours of t are accepted (1/q < 1) or all others (1/q > 1)


def make_bias(p: float, q: float) -> Bias:
    """The acceptance rule of node2vec's return parameter p and in-out parameter q, both > 0."""
    inverse_p, inverse_q = 1.0 / p, 1.0 / q
    ceiling = max(1.0, inverse_q)
    return Bias(
        is_second_order=not p == q == 1.0,
        has_outlier=inverse_p > ceiling,
        inverse_p=inverse_p,
        inverse_q=inverse_q,
        ceiling=ceiling,
        floor=min(1.0, inverse_q) / ceiling,
        near_wins=inverse_q < 1.0,
    )


class WalkGraph(NamedTuple):
    """A graph ready to walk on: CSR (rows sorted by neighbour) and what was derived from it.

    n nodes, m edges. ``records`` is empty for unweighted graphs, ``return_weights`` and ``weight_sums`` without an
    outlier area, ``bloom`` for p = q = 1.
    """

    indptr: NDArray[np.int64]  # [n + 1]
    indices: NDArray[np.int32]  # [m]
    weights: NDArray[np.float32]  # [m]
    records: NDArray[np.int32]  # [m, 4]: coin, alias (offset in the row), neighbour, alias's neighbour; one cache line
    weight_sums: NDArray[np.float64]  # [n]
    return_weights: NDArray[np.float32]  # [m]: for the edge t -> v the weight of v -> t, 0 where there is none
    bloom: NDArray[np.uint64]  # [2^k / 64]: one bit an edge


def build_walk_graph(graph: Csr, bias: Bias, weighted: bool = True) -> WalkGraph:
    """The tables that walks under ``bias`` need.

    ``weighted=False`` walks uniformly over neighbours. Costs one pass over the edges (two with an outlier area) and
    16 (records) + 4 (return weights) + 2 to 4 (Bloom filter) bytes an edge.
    """
    n, m = graph.num_nodes, graph.num_edges
    indptr, indices = graph.indptr, graph.indices
    weights = graph.weights if weighted else np.ones(m, np.float32)
    records = np.empty((m if weighted else 0, 4), np.int32)
    weight_sums = np.zeros(n if bias.has_outlier else 0, np.float64)
    return_weights = np.empty(m if bias.has_outlier else 0, np.float32)
    bloom = np.zeros(_bloom_words(m) if bias.is_second_order else 0, np.uint64)
    if weighted:
        _fill_records(indptr, indices, weights, records)
    if bias.has_outlier:
        _fill_return_weights(indptr, indices, weights, weight_sums, return_weights)
    if bias.is_second_order:
        _fill_bloom(indptr, indices, bloom)
    return WalkGraph(indptr, indices, weights, records, weight_sums, return_weights, bloom)


def walk_graph_bytes(num_nodes: int, num_edges: int, bias: Bias, weighted: bool = True) -> int:
    """Bytes of the graph that `build_walk_graph` makes."""
    return (
        8 * (num_nodes + 1)
        + 8 * num_edges
        + (16 * num_edges if weighted else 0)
        + (8 * num_nodes + 4 * num_edges if bias.has_outlier else 0)
        + (8 * _bloom_words(num_edges) if bias.is_second_order else 0)
    )


def _bloom_words(num_edges: int) -> int:
    """64-bit words of a filter with 16 to 32 bits an edge, a power of two."""
    return 1 << max(0, (max(num_edges, 1) * _BLOOM_BITS_PER_EDGE - 1).bit_length() - 6)


@njit(cache=True, nogil=True)
def find_edge(indptr: NDArray[np.int64], indices: NDArray[np.int32], src: int, dst: int) -> int:
    """The position of the edge src -> dst, -1 where there is none; branch-free binary search."""
    low, count = indptr[src], indptr[src + 1] - indptr[src]
    if count == 0:
        return -1
    while count > 1:
        half = count >> 1
        low = low + half if indices[low + half] <= dst else low
        count -= half
    return low if indices[low] == dst else -1


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
    weight_sums: NDArray[np.float64],
    return_weights: NDArray[np.float32],
) -> None:
    """Each node's sum of weights, and for each edge t -> v the weight of v -> t: in a directed graph perhaps none."""
    for v in range(len(indptr) - 1):
        for edge in range(indptr[v], indptr[v + 1]):
            weight_sums[v] += weights[edge]
            back = find_edge(indptr, indices, indices[edge], v)
            return_weights[edge] = weights[back] if back >= 0 else np.float32(0.0)


@njit(cache=True, nogil=True)
def _fill_bloom(indptr: NDArray[np.int64], indices: NDArray[np.int32], bloom: NDArray[np.uint64]) -> None:
    """Sets the bit of every directed edge."""
    shift = bloom_shift(bloom)
    for v in range(len(indptr) - 1):
        for edge in range(indptr[v], indptr[v + 1]):
            bit = bloom_bit(v, indices[edge], shift)
            bloom[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
