"""The project's side of `walks_kernel`: the numba kernel on a graph file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paired import timed
from benchmarks.walk_graphs import read_graph
from benchmarks.worker import serve
from recspark.graph.csr import Csr
from recspark.walks.bias import make_bias
from recspark.walks.kernel import walk
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.walkers import walk_keys

SAMPLE = 20_000
_RING = Csr(np.arange(0, 7, 2), np.array([1, 2, 0, 2, 0, 1], np.int32), np.ones(6, np.float32))
_held: dict[str, Any] = {}


def load(graph: str, p: float, q: float) -> dict[str, float]:
    """Reads the graph and compiles; the seconds that the walks' tables took."""
    read, bias = read_graph(graph), make_bias(p, q)
    build_walk_graph(_RING, bias)
    with timed() as timing:
        _held.update(graph=build_walk_graph(read, bias), bias=bias)
    walk_from(np.arange(3, dtype=np.int32), 3, seed=0)
    return {"table_seconds": timing.cpu}


def run(num_walks: int, num_steps: int, seed: int, sample: str | None = None) -> dict[str, float]:
    """Walks from every node; some of them into a file when asked for."""
    starts = np.tile(np.arange(len(_held["graph"].indptr) - 1, dtype=np.int32), num_walks)
    np.random.default_rng(seed).shuffle(starts)
    with timed() as timing:
        walks = walk_from(starts, num_steps, seed)
    if sample:
        np.save(sample, walks[:SAMPLE])
    return {"wall": timing.wall, "cpu": timing.cpu}


def walk_from(starts: NDArray[np.int32], num_steps: int, seed: int) -> NDArray[np.int32]:
    """int32 [W, num_steps + 1]."""
    numbers = np.arange(len(starts), dtype=np.int32)
    keys = walk_keys(seed, np.zeros(len(starts), np.int32), starts, numbers)
    nodes, lengths = walk(_held["graph"], _held["bias"], starts, keys, num_steps + 1)
    assert (lengths == num_steps + 1).all(), "the graph has no dead ends"
    return nodes


if __name__ == "__main__":
    serve({"load": load, "run": run})
