"""The peer's side of `walks_kernel`: fastnode2vec's kernel on one thread.

Runs in fastnode2vec's environment: nothing of recspark here. The library calls its kernel from Python, a walk at a
time, and makes lists of names; here a compiled loop calls it: faster than the library's own way in.
"""

import importlib.metadata
import time
from typing import Any

import numpy as np
from fastnode2vec import Graph
from fastnode2vec.graph import _random_walk_weighted
from numba import njit

from benchmarks.worker import serve

_held: dict[str, Any] = {}


def load(graph: str, p: float, q: float) -> dict[str, str]:
    """Reads the graph and compiles."""
    with np.load(graph) as arrays:
        src = np.repeat(np.arange(len(arrays["indptr"]) - 1), np.diff(arrays["indptr"]))
        edges = zip(src.tolist(), arrays["indices"].tolist(), arrays["data"].tolist(), strict=True)
        _held.update(graph=Graph(edges, directed=True, weighted=True, verbose=False), p=p, q=q)
    _walk(np.arange(10), 3)
    return {name: importlib.metadata.version(name) for name in ("fastnode2vec", "numpy", "numba")}


def run(num_walks: int, num_steps: int, seed: int, sample: str | None = None) -> dict[str, float]:
    """Walks from every node; some of them into a file when asked for."""
    starts = np.tile(np.arange(len(_held["graph"].node_names)), num_walks)
    np.random.default_rng(seed).shuffle(starts)
    wall, cpu = time.perf_counter(), time.process_time()
    walks = _walk(starts, num_steps)
    timing = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if sample:
        np.save(sample, _held["graph"].node_names[walks[:20_000]].astype(np.int32))
    return timing


def _walk(starts: np.ndarray, num_steps: int) -> np.ndarray:
    """int32 [W, num_steps + 1]."""
    graph = _held["graph"]
    walks = np.empty((len(starts), num_steps + 1), graph.indices.dtype)
    _fill(graph.indptr, graph.indices, graph.data, _held["p"], _held["q"], starts, walks)
    return walks


@njit(nogil=True)
def _fill(indptr: Any, indices: Any, data: Any, p: float, q: float, starts: np.ndarray, walks: np.ndarray) -> None:
    for row in range(len(starts)):
        walks[row] = _random_walk_weighted(indptr, indices, data, walks.shape[1], p, q, starts[row])


if __name__ == "__main__":
    serve({"load": load, "run": run})
