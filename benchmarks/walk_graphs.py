"""Graphs for walks, and whether two sides' walks on one of them are alike.

Undirected, weighted 1 to 10, with Zipf-like degrees and no node without a neighbour; node numbers say nothing.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.lines import BenchmarkError
from recspark.graph.csr import Csr

_ZIPF = 0.6
TOLERANCE = 0.01
"""Of the shares below: some ten standard deviations."""


def make_graph(num_nodes: int, num_edges: int, seed: int = 1) -> Csr:
    """About ``num_edges`` undirected edges, each in both directions: a ring, and edges between popular nodes.

    Source: Chung & Lu 2002 (random graphs with given expected degrees).
    """
    random = np.random.default_rng(seed)
    popularity = np.cumsum(1.0 / np.arange(1, num_nodes + 1) ** _ZIPF)
    drawn = np.searchsorted(popularity, random.random((2, num_edges)) * popularity[-1]).clip(max=num_nodes - 1)
    one, other = random.permutation(num_nodes)[drawn]
    ring = np.arange(num_nodes)
    one, other = np.concatenate([one, ring]), np.concatenate([other, (ring + 1) % num_nodes])
    low, high = np.minimum(one, other), np.maximum(one, other)
    keys = np.unique(low[low != high] * num_nodes + high[low != high])
    low, high = keys // num_nodes, keys % num_nodes
    weights = np.tile(random.integers(1, 11, len(keys)).astype(np.float32), 2)
    src, dst = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((dst, src))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(src, minlength=num_nodes))]).astype(np.int64)
    return Csr(indptr, dst[order].astype(np.int32), weights[order])


def save_graph(graph: Csr, path: Path) -> None:
    """A file that every side reads."""
    np.savez(path, indptr=graph.indptr, indices=graph.indices, data=graph.weights)


def read_graph(path: str) -> Csr:
    """What `save_graph` wrote."""
    with np.load(path) as arrays:
        return Csr(arrays["indptr"], arrays["indices"], arrays["data"])


def step_shares(graph: Csr, walks: NDArray[np.int32]) -> dict[str, float]:
    """Of the steps t -> v -> x in full walks [W, nodes]: those back to t, and those to a neighbour of t.

    Raises: BenchmarkError when a step follows no edge.
    """
    src = np.repeat(np.arange(graph.num_nodes), graph.degrees)
    edges = src * graph.num_nodes + graph.indices
    taken = walks[:, :-1].astype(np.int64) * graph.num_nodes + walks[:, 1:]
    if not np.isin(taken, edges).all():
        raise BenchmarkError("walks: a step follows no edge of the graph")
    before, after = walks[:, :-2].astype(np.int64), walks[:, 2:]
    is_near = np.isin(before * graph.num_nodes + after, edges)
    return {"return": float((before == after).mean()), "near": float(is_near.mean())}


def compare_shares(shares: dict[str, dict[str, float]]) -> None:
    """Checks that both sides step alike.

    Raises: BenchmarkError when they do not.
    """
    ours, theirs = shares["project"], shares["peer"]
    if any(abs(ours[kind] - theirs[kind]) > TOLERANCE for kind in ours):
        raise BenchmarkError(f"walks: the sides walk differently; shares of steps {shares}")
