"""The peer's side of `index_search`: Annoy, one thread. Runs in Annoy's environment: nothing of recspark here.

Annoy answers one query at a time; the loop over queries is Python's, as in its documentation.
"""

import importlib.metadata
import time
from typing import Any

import numpy as np
from annoy import AnnoyIndex

from benchmarks.worker import serve

TREES = 50
_held: dict[str, Any] = {}


def build(vectors: str, queries: str) -> dict[str, Any]:
    """Builds the forest; what it took, the settings to try, and versions."""
    items = np.load(vectors)
    wall = time.perf_counter()
    index = AnnoyIndex(items.shape[1], "angular")
    index.set_seed(1)
    for row, vector in enumerate(items):
        index.add_item(row, vector)
    index.build(TREES, n_jobs=1)
    _held.update(index=index, queries=np.load(queries))
    settings = [TREES * factor for factor in (10, 40, 160, 640, 2560)]
    versions = {name: importlib.metadata.version(name) for name in ("annoy", "numpy")}
    return {"settings": settings, "seconds": time.perf_counter() - wall, "versions": versions}


def search(setting: int, k: int, ids: str) -> dict[str, float]:
    """Seconds of all queries at one search_k; rows found into a file."""
    index, found = _held["index"], np.full((len(_held["queries"]), k), -1)
    wall, cpu = time.perf_counter(), time.process_time()
    for row, query in enumerate(_held["queries"]):
        near = index.get_nns_by_vector(query, k, setting)
        found[row, : len(near)] = near
    timing = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    np.save(ids, found)
    return timing


if __name__ == "__main__":
    serve({"build": build, "search": search})
