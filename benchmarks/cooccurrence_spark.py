"""`cooccurrence_spark`: Delta table of sessions in, Delta table of top-50 rows out, against Spark SQL in the same JVM.

Both read the same version with the same caps and weights (the defaults: a pair weighs l^-.5), on the same master and
cores, after two warm-up jobs each on a tenth of the sessions. The peer's shuffle partitions are tuned on the full
table, the project runs as often in between. Rows are compared: supports equal, scores up to rounding.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from benchmarks.graph_rows import GraphRows, compare_rows, rows_from_table
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.session_data import make_sessions
from benchmarks.spark_join import PEERS
from benchmarks.spark_lakes import Copies
from benchmarks.worker import Worker

CORES = 2
_SETTINGS = {
    "graph": {"score": "cosine", "num_neighbours": 50},
    "spark": {"master": f"local[{CORES}]", "driver_memory": "6g"},
}
_FULL = {"num_sessions": 300_000, "num_items": 50_000}, {"num_sessions": 900_000, "num_items": 50_000}
_QUICK = {"num_sessions": 10_000, "num_items": 5_000}
_TUNED_OVER = (8, 16, 32), (16, 32)


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each way to write the peer; on three times the sessions, one for the way that was faster."""
    if quick:
        yield from compare_all(_QUICK, list(PEERS)[:1], (4,), 1, command)
        return
    lines = list(compare_all(_FULL[0], list(PEERS), _TUNED_OVER[0], 3, command))
    yield from lines
    fastest = min(lines, key=lambda line: line["ratio"])["peer"]
    yield from compare_all(_FULL[1], [fastest], _TUNED_OVER[1], 3, command)


def compare_all(
    shape: dict[str, int], peers: Sequence[str], tuned_over: tuple[int, ...], runs: int, command: str
) -> Iterator[dict[str, Any]]:
    """A line for each of the peers on sessions of one shape, in a JVM of their own."""
    with tempfile.TemporaryDirectory() as name, Worker("benchmarks.cooccurrence_worker") as worker:
        sides = _Sides(Path(name), worker, shape)
        for peer in peers:
            sides.warm_up(peer, 1 if runs == 1 else 2)
            yield sides.compare(peer, sides.tune(peer, tuned_over), runs, command)


class _Sides:
    """The JVM of both sides, two lakes of sessions, and what the runs cost."""

    def __init__(self, folder: Path, worker: Worker, shape: dict[str, int]) -> None:
        self._worker, self._shape, self._copies = worker, shape, Copies(folder)
        self._full, self._small = str(folder / "full"), str(folder / "small")
        self._answers: dict[str, list[dict[str, Any]]] = {}
        worker.ask("load", settings=_SETTINGS, lake=self._full)
        worker.ask("write", lake=self._full, **shape)
        worker.ask("write", lake=self._small, **shape | {"num_sessions": shape["num_sessions"] // 10})

    def warm_up(self, peer: str, jobs: int) -> None:
        """So many jobs of each side on the small lake."""
        for _ in range(jobs):
            self._run_peer(self._small, peer, 2 * CORES)
            self._run_project(self._small)

    def tune(self, peer: str, tuned_over: tuple[int, ...]) -> int:
        """The number of shuffle partitions with which the peer took the least time on the full table."""
        if len(tuned_over) == 1:
            return tuned_over[0]
        seconds = {}
        for partitions in tuned_over:
            seconds[partitions] = self._run_peer(self._full, peer, partitions).wall
            self._run_project(self._full)  # so both sides' code is compiled alike
        return min(seconds, key=lambda n: seconds[n])

    def compare(self, peer: str, partitions: int, runs: int, command: str) -> dict[str, Any]:
        """One line."""
        self._answers.clear()
        paired = run_pairs(
            lambda: self._run_peer(self._full, peer, partitions), lambda: self._run_project(self._full), runs
        )
        graph, data = _SETTINGS["graph"], make_sessions(**self._shape)
        return speed_line(
            "cooccurrence_spark",
            peer,
            paired,
            data.work() | graph | {"cores": CORES, "peer_shuffle_partitions": partitions},
            find_versions("pyspark", "delta-spark", "numpy", "numba", "pyarrow"),
            command,
            shuffle_mb={side: self._median_mb(side) for side in ("project", "peer")},
            compared=compare_rows(self._rows("project"), self._rows("peer")),
        )

    def _run_project(self, lake: str) -> Timing:
        return self._keep("project", self._worker.ask("run_project", lake=self._copies.make(lake, "project")))

    def _run_peer(self, lake: str, peer: str, shuffle_partitions: int) -> Timing:
        arguments = {"peer": peer, "shuffle_partitions": shuffle_partitions}
        return self._keep("peer", self._worker.ask("run_peer", lake=self._copies.make(lake, "peer"), **arguments))

    def _keep(self, side: str, answer: dict[str, Any]) -> Timing:
        self._answers.setdefault(side, []).append(answer)
        return Timing(answer["wall"], answer["cpu"])

    def _median_mb(self, side: str) -> float:
        return statistics.median(answer["shuffle_bytes"] for answer in self._answers[side]) / 1e6

    def _rows(self, side: str) -> GraphRows:
        return rows_from_table(DeltaTable(self._answers[side][-1]["table"]).to_pyarrow_table())
