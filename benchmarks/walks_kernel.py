"""`walks_kernel`: second-order walks on one core against PecanPy's SparseOTF and fastnode2vec: same graph, p, q, work.

Compiling and reading the graph are timed on no side; the line says what the project's tables (alias, Bloom filter)
took. The peers' kernels are called in a faster way than their libraries do (`benchmarks/peers`). Shares of steps back
to where a walk came from, and to neighbours of that, must agree: both sides walk by the same probabilities.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.peers.venv import peer_python
from benchmarks.walk_graphs import compare_shares, make_graph, save_graph, step_shares
from benchmarks.worker import Worker
from recspark.graph.csr import Csr

PEERS = {"PecanPy SparseOTF": "pecanpy", "fastnode2vec": "fastnode2vec"}
ONE_NUMBA_THREAD = {"NUMBA_NUM_THREADS": "1"}
_FULL = {"nodes": 50_000, "edges": 1_000_000, "num_walks": 5, "steps": 40}
_QUICK = {"nodes": 5_000, "edges": 100_000, "num_walks": 4, "steps": 20}


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each peer and each pair of p and q."""
    work = _QUICK if quick else _FULL
    graph = make_graph(work["nodes"], work["edges"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_graph(graph, folder / "graph.npz")
        for p, q in ((0.5, 2.0),) if quick else ((0.5, 2.0), (2.0, 0.5)):
            for peer, environment in PEERS.items():
                with open_peer(environment) as theirs, Worker("benchmarks.walks_worker") as ours:
                    sides = {"project": ours, "peer": theirs}
                    yield _Pair(folder, graph, sides, p, q).compare(peer, work, 2 if quick else 3, command)


def open_peer(environment: str) -> Worker:
    """A peer's process, in its own environment, on one thread."""
    return Worker(f"benchmarks.peers.{environment}_walks", peer_python(environment), ONE_NUMBA_THREAD)


class _Pair:
    """Both sides, the graph loaded and the code compiled."""

    def __init__(self, folder: Path, graph: Csr, sides: dict[str, Worker], p: float, q: float) -> None:
        self._folder, self._graph, self._sides = folder, graph, sides
        self._bias = {"p": p, "q": q}
        found = {side: worker.ask("load", graph=str(folder / "graph.npz"), p=p, q=q) for side, worker in sides.items()}
        self._table_seconds = found["project"]["table_seconds"]
        peer_versions = {f"peer {name}": version for name, version in found["peer"].items()}
        self._versions = find_versions("numpy", "numba") | peer_versions

    def compare(self, peer: str, work: dict[str, int], runs: int, command: str) -> dict[str, Any]:
        """One line."""
        paired = run_pairs(lambda: self._walk("peer", work), lambda: self._walk("project", work), runs)
        shares = {side: self._shares(side) for side in self._sides}
        compare_shares(shares)
        num_steps = work["nodes"] * work["num_walks"] * work["steps"]
        speed = {side: round(num_steps / paired.median_seconds(side)["cpu"]) for side in ("project", "peer")}  # type: ignore[arg-type]
        shape = work | {"edges": self._graph.num_edges // 2, **self._bias, "total_steps": num_steps, "cores": 1}
        return speed_line(
            "walks_kernel", peer, paired, shape, self._versions, command, steps_per_core_second=speed,
            step_shares=shares, project_table_seconds=self._table_seconds,
        )  # fmt: skip

    def _walk(self, side: str, work: dict[str, int]) -> Timing:
        shape = {"num_walks": work["num_walks"], "num_steps": work["steps"]}
        return Timing(**self._sides[side].ask("run", **shape, seed=1, sample=self._sample(side)))

    def _shares(self, side: str) -> dict[str, float]:
        return step_shares(self._graph, np.load(self._sample(side)))

    def _sample(self, side: str) -> str:
        return str(self._folder / f"{side}.npy")
