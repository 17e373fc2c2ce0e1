"""`index_build`: the project's IVFPQ build against faiss' own `index_factory` with the same nlist and m, equal threads.

The peer trains on all vectors and adds them, as a user would write it; the project's time holds its files and receipts
too. Recall@10 of both without the second stage, the mean over the same settings of nprobe, has to agree within .005.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_folder import plan_for
from benchmarks.index_vectors import (
    Floats,
    as_items,
    clustered_vectors,
    draw_queries,
    exact_neighbours,
    recall_of,
    save_set,
    trained_vectors,
)
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.worker import Worker

PEER = "faiss index_factory"
MOST_LOST = 0.005
K = 10
_NPROBES = (4, 16, 64)


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for clustered vectors, and one for trained ones."""
    if quick:
        sets = {"clustered": clustered_vectors(12_000, 32), "trained": trained_vectors(4_000, 100_000, 32)}
    else:
        sets = {"clustered": clustered_vectors(500_000, 128), "trained": trained_vectors(50_000, 5_000_000, 128)}
    for name, vectors in sets.items():
        yield _compare(name, vectors, 1 if quick else 3, command)


def _compare(name: str, vectors: Floats, runs: int, command: str) -> dict[str, Any]:
    plan = plan_for(as_items(vectors), kind="ivf_pq")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        queries = draw_queries(vectors, 1000)
        files = save_set(folder, vectors, queries)
        with Worker("benchmarks.index_build_worker") as ours, Worker("benchmarks.index_build_worker") as theirs:
            for worker in (ours, theirs):
                worker.ask("load", **files)
            paired = run_pairs(
                lambda: Timing(**theirs.ask("build_peer", factory=f"IVF{plan.nlist},PQ{plan.m}")),
                lambda: Timing(**ours.ask("build_project")),
                runs,
            )
            wanted = exact_neighbours(vectors, queries, K)
            recalls = {
                side: {str(n): _measure_recall(worker, folder, n, wanted) for n in _NPROBES if n <= plan.nlist}
                for side, worker in (("project", ours), ("peer", theirs))
            }
    lost = sum(recalls["peer"][n] - recalls["project"][n] for n in recalls["peer"]) / len(recalls["peer"])
    work = {"vectors": name, "num_vectors": len(vectors), "dim": vectors.shape[1], "nlist": plan.nlist, "m": plan.m,
            "train_sample": plan.train_size, "threads": 1}  # fmt: skip
    return speed_line(
        "index_build", PEER, paired, work, find_versions("faiss-cpu", "numpy"), command,
        recall_at_10=recalls, mean_recall_lost=lost, is_quality_reached=lost <= MOST_LOST,
    )  # fmt: skip


def _measure_recall(worker: Worker, folder: Path, nprobe: int, wanted: Any) -> float:
    worker.ask("search", nprobe=nprobe, k=K, ids=str(folder / "ids.npy"))
    return recall_of(np.load(folder / "ids.npy"), wanted)
