"""The project's side of `index_search`, and faiss LSH: one process an index, on one thread."""

import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.index_folder import build_shards, open_built, plan_for
from benchmarks.index_vectors import as_items
from benchmarks.paired import timed
from benchmarks.worker import serve
from recspark.index.engine import faiss
from recspark.index.finish import sweep

_LSH_BITS = (2, 4, 8)
"""Bits a dimension."""
_folder = tempfile.TemporaryDirectory()
"""Of the index: codes of the second stage are mapped from there."""
_held: dict[str, Any] = {}


def build(vectors: str, queries: str, knobs: dict[str, Any]) -> dict[str, Any]:
    """Builds an index of the project; its name, the settings to try, and what it took."""
    items, _held["queries"] = as_items(np.load(vectors)), np.load(queries)
    plan = plan_for(items, **knobs)
    wall = time.perf_counter()
    index = open_built(_folder.name, items, build_shards(_folder.name, items, plan))
    seconds = time.perf_counter() - wall
    _held["search"] = lambda setting, k: index.search(_held["queries"], k, effort=setting)[0]
    return {"settings": sweep(index, None), "seconds": seconds, "name": plan.name}


def build_lsh(vectors: str, queries: str) -> dict[str, Any]:
    """Builds faiss' LSH, one index a number of bits."""
    found, _held["queries"] = np.load(vectors), np.load(queries)
    wall = time.perf_counter()
    indexes = {bits: faiss.IndexLSH(found.shape[1], bits * found.shape[1]) for bits in _LSH_BITS}
    for index in indexes.values():
        index.train(found)
        index.add(found)
    _held["search"] = lambda setting, k: indexes[setting].search(_held["queries"], k)[1]
    return {"settings": [*_LSH_BITS], "seconds": time.perf_counter() - wall, "name": "LSH"}


def search(setting: int | None, k: int, ids: str) -> dict[str, float]:
    """Seconds of all queries at one setting; rows found into a file."""
    with timed() as timing:
        found = _held["search"](setting, k)
    np.save(ids, found)
    return {"wall": timing.wall, "cpu": timing.cpu}


if __name__ == "__main__":
    serve({"build": build, "build_lsh": build_lsh, "search": search})
