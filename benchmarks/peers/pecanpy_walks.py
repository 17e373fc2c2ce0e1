"""The peer's side of `walks_kernel` and `walks_spark`: PecanPy's SparseOTF on one thread.

Runs in PecanPy's environment: nothing of recspark here. `simulate_walks` compiles anew at each call and makes lists of
strings; here its kernel is called as it does, with functions compiled once, and the matrix of node numbers is the
result: faster than the library's own way in.
"""

import importlib.metadata
import time
from typing import Any

import numpy as np
from numba_progress import ProgressBar
from pecanpy import pecanpy

from benchmarks.worker import serve

_held: dict[str, Any] = {}


def load(graph: str, p: float, q: float) -> dict[str, str]:
    """Reads the graph and compiles."""
    side = pecanpy.SparseOTF(p=p, q=q, workers=1)
    side.read_npz(graph, weighted=True, implicit_ids=True)
    _held.update(side=side, functions=(side.get_has_nbrs(), side.get_move_forward()))
    _walk(np.arange(10, dtype=np.uint32), 3)
    return {name: importlib.metadata.version(name) for name in ("pecanpy", "numpy", "numba")}


def run(num_walks: int, num_steps: int, seed: int, sample: str | None = None) -> dict[str, float]:
    """Walks from every node; some of them into a file when asked for."""
    starts = np.tile(np.arange(_held["side"].num_nodes, dtype=np.uint32), num_walks)
    np.random.default_rng(seed).shuffle(starts)
    wall, cpu = time.perf_counter(), time.process_time()
    walks = _walk(starts, num_steps)
    timing = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if sample:
        np.save(sample, walks[:20_000, :-1].astype(np.int32))
    return timing


def _walk(starts: np.ndarray, num_steps: int) -> np.ndarray:
    """uint32 [W, num_steps + 2]: nodes, and how many there are."""
    with ProgressBar(total=len(starts), disable=True) as progress:
        return _held["side"]._random_walks(len(starts), num_steps, None, starts, *_held["functions"], progress)


if __name__ == "__main__":
    serve({"load": load, "run": run})
