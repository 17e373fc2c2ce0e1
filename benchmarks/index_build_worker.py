"""Both sides of `index_build`, each in a process of its own on one thread."""

import tempfile
from typing import Any

import numpy as np

from benchmarks.index_folder import build_shards, open_built, plan_for
from benchmarks.index_vectors import as_items
from benchmarks.paired import timed
from benchmarks.worker import serve
from recspark.index.engine import faiss

_held: dict[str, Any] = {}


def load(vectors: str, queries: str) -> None:
    """Reads vectors and queries."""
    _held.update(vectors=np.load(vectors), queries=np.load(queries))


def build_project() -> dict[str, float]:
    """Plan, training, adding, files and receipts; without the second stage, as the peer has none."""
    items = as_items(_held["vectors"])
    plan = plan_for(items, kind="ivf_pq", m=plan_for(items, kind="ivf_pq").m, refine="none")
    with tempfile.TemporaryDirectory() as folder:
        with timed() as timing:
            trained = build_shards(folder, items, plan)
        _held["index"] = open_built(folder, items, trained)
    return {"wall": timing.wall, "cpu": timing.cpu}


def build_peer(factory: str) -> dict[str, float]:
    """What the documentation shows: train on the vectors, add them."""
    vectors = _held["vectors"]
    with timed() as timing:
        index = faiss.index_factory(vectors.shape[1], factory)
        index.train(vectors)
        index.add(vectors)
    _held["peer"] = index
    return {"wall": timing.wall, "cpu": timing.cpu}


def search(nprobe: int, k: int, ids: str) -> None:
    """Rows found for the queries, into a file."""
    if "index" in _held:
        found = _held["index"].search(_held["queries"], k, effort=nprobe)[0]
    else:
        _held["peer"].nprobe = nprobe
        found = _held["peer"].search(_held["queries"], k)[1]
    np.save(ids, found)


if __name__ == "__main__":
    serve({"load": load, "build_project": build_project, "build_peer": build_peer, "search": search})
