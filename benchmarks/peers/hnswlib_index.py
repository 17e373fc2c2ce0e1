"""The peer's side of `index_search`: hnswlib, one thread. Runs in its own environment: nothing of recspark here."""

import importlib.metadata
import time
from typing import Any

import hnswlib
import numpy as np

from benchmarks.worker import serve

LINKS, EF_CONSTRUCTION = 32, 80
"""As the project's own graphs have them."""
_held: dict[str, Any] = {}


def build(vectors: str, queries: str) -> dict[str, Any]:
    """Builds the graph; what it took, the settings to try, and versions."""
    items = np.load(vectors)
    wall = time.perf_counter()
    index = hnswlib.Index("ip", items.shape[1])
    index.init_index(len(items), ef_construction=EF_CONSTRUCTION, M=LINKS, random_seed=1)
    index.add_items(items, num_threads=1)
    _held.update(index=index, queries=np.load(queries))
    versions = {name: importlib.metadata.version(name) for name in ("hnswlib", "numpy")}
    return {"settings": [16, 32, 64, 128, 256], "seconds": time.perf_counter() - wall, "versions": versions}


def search(setting: int, k: int, ids: str) -> dict[str, float]:
    """Seconds of all queries at one ef; rows found into a file."""
    index = _held["index"]
    index.set_ef(max(setting, k))
    wall, cpu = time.perf_counter(), time.process_time()
    found, _ = index.knn_query(_held["queries"], k, num_threads=1)
    timing = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    np.save(ids, found.astype(np.int64))
    return timing


if __name__ == "__main__":
    serve({"build": build, "search": search})
