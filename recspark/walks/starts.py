"""Where walks start and how many: every node that can be left, in an order that mixes them, cut into parts by hash.

    num_walks 10 of 3 nodes with 1, 2 and 3 neighbours   fixed: 10 10 10, degree: 5 10 15

The order and the parts hang on node ids alone, so a part holds the same walks wherever and in whatever mode it is made.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recspark.contracts.shards import hash_ids

_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0


class Starts(NamedTuple):
    """Start nodes in the order of their hashes; ``counts`` beside them, empty where each has `num_walks` walks."""

    nodes: NDArray[np.int32]
    counts: NDArray[np.int32]


class Degrees(NamedTuple):
    """What a graph has in all: nodes that can be left, edges, and the edges of nodes before a shard's first."""

    num_starts: int
    num_edges: int
    edges_before: int = 0


def find_starts(
    indptr: NDArray[np.int64], *, first: int = 0, num_walks: int = 1, by_degree: Degrees | None = None
) -> Starts:
    """The starts among the nodes ``first``, ``first`` + 1, ... whose rows ``indptr`` cuts.

    ``by_degree`` gives a node its share of num_starts * num_walks walks, in proportion to its neighbours: shares are
    whole, add up to that total over all nodes, and may be 0.
    """
    rows = np.flatnonzero(np.diff(indptr))
    nodes = (rows + first).astype(np.int32)
    order = np.argsort(hash_ids(nodes), kind="stable")
    if by_degree is None:
        return Starts(nodes[order], np.empty(0, np.int32))
    counts = np.diff(_share(indptr, num_walks, by_degree))[rows].astype(np.int32)
    kept = order[counts[order] > 0]
    return Starts(nodes[kept], counts[kept])


def _share(indptr: NDArray[np.int64], num_walks: int, degrees: Degrees) -> NDArray[np.int64]:
    """floor(walks x edges so far / edges): cumulative shares, in integers."""
    total, edges = degrees.num_starts * num_walks, degrees.num_edges
    whole, rest = divmod(total, edges)
    assert edges < 3_000_000_000, "products stay below 2^63"
    so_far = indptr + degrees.edges_before
    shares: NDArray[np.int64] = so_far * whole + so_far * rest // edges
    return shares


def part_of(nodes: NDArray[np.int32], num_parts: int) -> NDArray[np.int64]:
    """The part of each start node, 0..num_parts-1: ascending along the order of starts."""
    upper = hash_ids(nodes) >> np.uint64(32)
    return ((upper * np.uint64(num_parts)) >> np.uint64(32)).astype(np.int64)


def cut_part(starts: Starts, part: int, num_parts: int) -> Starts:
    """The starts of one part, without a copy."""
    low, high = np.searchsorted(part_of(starts.nodes, num_parts), [part, part + 1])
    return Starts(starts.nodes[low:high], starts.counts[low:high])


def name_walks(starts: Starts, slots: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(start node, walk number) of the walks at ``slots`` among those of one epoch, which mix their starts.

    Start nodes go fastest where each has as many walks; else slots are spread over all walks by a stride.
    """
    if not len(starts.counts):
        numbers, places = np.divmod(slots, max(1, len(starts.nodes)))
        return starts.nodes[places], numbers.astype(np.int32)
    ends = np.cumsum(starts.counts, dtype=np.int64)
    spread = slots * _stride(int(ends[-1])) % ends[-1]
    places = np.searchsorted(ends, spread, side="right")
    return starts.nodes[places], (spread - ends[places] + starts.counts[places]).astype(np.int32)


def count_walks(starts: Starts, num_walks: int) -> int:
    """Walks of one epoch."""
    return int(starts.counts.sum()) if len(starts.counts) else len(starts.nodes) * num_walks


def _stride(total: int) -> int:
    """A step that visits each of 0..total-1 once and jumps far."""
    stride = max(1, int(total * _GOLDEN_RATIO))
    while math.gcd(stride, total) > 1:
        stride += 1
    return stride
