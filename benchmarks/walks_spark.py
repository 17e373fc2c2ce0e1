"""`walks_spark`: a pinned item_graph to committed walks in Delta, on a warm JVM, against PecanPy's walks in memory.

The project reads the table, makes its tables, walks on two cores and commits; PecanPy (SparseOTF, one core) has read
the graph and compiled before, and writes nothing. Sizes of ``--quick`` are mostly the cost of two Spark jobs.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.spark_lakes import Copies
from benchmarks.walk_graphs import compare_shares, make_graph, save_graph, step_shares
from benchmarks.walks_kernel import open_peer
from benchmarks.worker import Worker

CORES = 2
P, Q = 0.5, 2.0
_FULL = {"nodes": 50_000, "edges": 1_000_000, "num_walks": 10, "walk_length": 40}
_QUICK = {"nodes": 5_000, "edges": 100_000, "num_walks": 4, "walk_length": 20}
_SMALL = {"nodes": 5_000, "edges": 50_000}


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """One line."""
    work = _QUICK if quick else _FULL
    with (
        tempfile.TemporaryDirectory() as name,
        open_peer("pecanpy") as peer,
        Worker("benchmarks.walks_spark_worker") as project,
    ):
        sides = _Sides(Path(name), project, peer, work)
        sides.warm_up(1 if quick else 2)
        yield sides.compare(1 if quick else 3, command)


def settings_of(work: dict[str, int]) -> dict[str, Any]:
    """What a config of the project would hold."""
    return {
        "source": {"kind": "edges", "path": "none.csv", "format": "csv", "directed": False},
        "split": {},
        "walks": {"num_walks": work["num_walks"], "walk_length": work["walk_length"], "p": P, "q": Q},
        "spark": {"master": f"local[{CORES}]", "driver_memory": "4g"},
    }


class _Sides:
    """Both sides, the same graph before them."""

    def __init__(self, folder: Path, project: Worker, peer: Worker, work: dict[str, int]) -> None:
        self._folder, self._project, self._peer, self._work = folder, project, peer, work
        self._copies = Copies(folder)
        self._full, self._small = str(folder / "full"), str(folder / "small")
        shape = {"nodes": work["nodes"], "edges": work["edges"]}
        self._graph = make_graph(**{f"num_{name}": value for name, value in shape.items()})
        save_graph(self._graph, folder / "graph.npz")
        found = peer.ask("load", graph=str(folder / "graph.npz"), p=P, q=Q)
        self._versions = find_versions("pyspark", "delta-spark", "numpy", "numba", "pyarrow")
        self._versions |= {f"peer {package}": version for package, version in found.items()}
        project.ask("load", settings=settings_of(work), lake=self._full)
        for lake, size in ((self._full, shape), (self._small, _SMALL)):
            project.ask("write", lake=lake, **size)

    def warm_up(self, jobs: int) -> None:
        """So many runs of the stage on a small graph."""
        for _ in range(jobs):
            self._walk_on_spark(self._small)

    def compare(self, runs: int, command: str) -> dict[str, Any]:
        """One line."""
        paired = run_pairs(self._walk_in_memory, lambda: self._walk_on_spark(self._full), runs)
        shares = {side: step_shares(self._graph, np.load(self._sample(side))) for side in ("project", "peer")}
        compare_shares(shares)
        num_steps = self._work["nodes"] * self._work["num_walks"] * (self._work["walk_length"] - 1)
        speed = {side: round(num_steps / paired.median_seconds(side)["cpu"]) for side in ("project", "peer")}  # type: ignore[arg-type]
        work = self._work | {"edges": self._graph.num_edges // 2, "p": P, "q": Q, "total_steps": num_steps}
        return speed_line(
            "walks_spark", "PecanPy SparseOTF, one core, in memory", paired, work | {"cores": CORES}, self._versions,
            command, steps_per_core_second=speed, step_shares=shares,
        )  # fmt: skip

    def _walk_on_spark(self, lake: str) -> Timing:
        found = self._project.ask("run", lake=self._copies.make(lake, "project"), sample=self._sample("project"))
        return Timing(found["wall"], found["cpu"])

    def _walk_in_memory(self) -> Timing:
        shape = {"num_walks": self._work["num_walks"], "num_steps": self._work["walk_length"] - 1}
        return Timing(**self._peer.ask("run", **shape, seed=1, sample=self._sample("peer")))

    def _sample(self, side: str) -> str:
        return str(self._folder / f"{side}.npy")
