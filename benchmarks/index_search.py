"""`index_search`: recall@10 against queries a second of the project's kinds and of others, one thread each.

Every index is asked the same batch at each of its settings, all in turn, several times. A line compares the project's
side with a peer where both reach the same recall, each by its cheapest setting; the first also holds all points.

    the plan's own choice          against Annoy, hnswlib, faiss LSH and the project's other kinds
    ivf_pq with its second stage   against codes alone
    eight shards                   against one
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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
from benchmarks.paired import Paired, Timing
from benchmarks.peers.venv import peer_python
from benchmarks.worker import Worker

K = 10
TARGET, REFINED_TARGET = 0.95, 0.98
PLAN, REFINED, CODES, ONE, SHARDED = "plan", "ivf_pq refined", "ivf_pq codes alone", "one shard", "eight shards"
OURS: dict[str, dict[str, Any]] = {
    PLAN: {},
    "flat": {"kind": "flat"},
    "ivf_flat": {"kind": "ivf_flat"},
    "hnsw": {"kind": "hnsw"},
    REFINED: {"kind": "ivf_pq"},
    CODES: {"kind": "ivf_pq", "refine": "none"},
    "ivf_pq 4 bits refined": {"kind": "ivf_pq", "nbits": 4},
    SHARDED: {"kind": "ivf_pq", "num_shards": 8},
}
OTHERS = {"Annoy": "annoy", "hnswlib": "hnswlib"}
LSH = "faiss LSH"
_SLACK = 0.9
"""A point is off the front when another has its recall and more than 1 / this of its speed: less is noise."""


@dataclass
class Point:
    """One setting of one index: its recall, and the seconds of each round."""

    setting: int | None
    recall: float
    timings: list[Timing]

    def speed(self, num_queries: int) -> float:
        """Queries a second, the median over rounds."""
        return num_queries / statistics.median(timing.wall for timing in self.timings)


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """Lines for clustered vectors, then for trained ones."""
    if quick:
        sets = {"clustered": clustered_vectors(12_000, 32), "trained": trained_vectors(4_000, 100_000, 32)}
    else:
        sets = {"clustered": clustered_vectors(200_000, 64), "trained": trained_vectors(50_000, 5_000_000, 64)}
    for name, vectors in sets.items():
        queries = draw_queries(vectors, 300 if quick else 2000)
        yield from _compare(name, vectors, queries, 2 if quick else 5, command)


def _compare(name: str, vectors: Floats, queries: Floats, rounds: int, command: str) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        workers, built = _open_all(save_set(folder, vectors, queries), stack)
        points = _measure(workers, built, folder, exact_neighbours(vectors, queries, K), rounds)
    versions = find_versions("faiss-cpu", "numpy")
    versions |= {f"peer {k}": v for found in built.values() for k, v in found.get("versions", {}).items()}
    work = {"vectors": name, "num_vectors": len(vectors), "dim": vectors.shape[1], "queries": len(queries), "k": K,
            "threads": 1}  # fmt: skip
    kind = plan_for(as_items(vectors)).kind
    more: dict[str, Any] = {
        "front": _to_front(points, len(queries)),
        "build_seconds": {name: round(found["seconds"], 2) for name, found in built.items()},
        "plan_kind": kind,
        "is_plan_on_front": is_on_front(points[PLAN], points, len(queries), TARGET),
    }
    for peer in (*OTHERS, LSH, *(p for p in OURS if p in ("flat", "ivf_flat", "hnsw", REFINED) and p != kind)):
        yield _line(points[PLAN], points[peer], peer, TARGET, work, versions, command, side=PLAN, **more)
        more = {}
    yield _line(points[REFINED], points[CODES], CODES, REFINED_TARGET, work, versions, command, side=REFINED)
    yield _line(points[SHARDED], points[REFINED], ONE, TARGET, work, versions, command, side=SHARDED)


def _open_all(files: dict[str, str], stack: ExitStack) -> tuple[dict[str, Worker], dict[str, dict[str, Any]]]:
    """Every index in a process of its own, built one after the other."""
    workers = {name: stack.enter_context(Worker("benchmarks.index_search_worker")) for name in (*OURS, LSH)}
    for name, environment in OTHERS.items():
        peer = Worker(f"benchmarks.peers.{environment}_index", peer_python(environment))
        workers[name] = stack.enter_context(peer)
    built = {name: workers[name].ask("build", **files, knobs=knobs) for name, knobs in OURS.items()}
    built[LSH] = workers[LSH].ask("build_lsh", **files)
    return workers, built | {name: workers[name].ask("build", **files) for name in OTHERS}


def _measure(
    workers: dict[str, Worker], built: dict[str, dict[str, Any]], folder: Path, wanted: Any, rounds: int
) -> dict[str, list[Point]]:
    """All settings of all indexes in turn, once a round."""
    points: dict[str, list[Point]] = {name: [Point(s, 0.0, []) for s in built[name]["settings"]] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            for point in points[name]:
                found = worker.ask("search", setting=point.setting, k=K, ids=str(folder / "ids.npy"))
                point.timings.append(Timing(found["wall"], found["cpu"]))
                point.recall = recall_of(np.load(folder / "ids.npy"), wanted)
    return points


def cheapest(points: list[Point], target: float) -> Point:
    """The first point, settings being in order of what they cost, that reaches a recall; without one, the highest."""
    reaching = (point for point in points if point.recall >= target)
    return next(reaching, max(points, key=lambda point: point.recall))


def is_on_front(plan: list[Point], points: dict[str, list[Point]], num_queries: int, target: float) -> bool:
    """Whether no other index of any kind has the recall of the plan's chosen point at clearly more speed."""
    chosen = cheapest(plan, target)
    others = [point for name, found in points.items() if name != PLAN for point in found]
    better = [p for p in others if p.recall >= chosen.recall]
    return all(point.speed(num_queries) * _SLACK <= chosen.speed(num_queries) for point in better)


def _line(
    ours: list[Point],
    theirs: list[Point],
    peer: str,
    target: float,
    work: dict[str, Any],
    versions: dict[str, str],
    command: str,
    **more: Any,
) -> dict[str, Any]:
    """The ratio of the seconds of both sides' cheapest settings that reach the target; says where one does not."""
    left, right = cheapest(ours, target), cheapest(theirs, target)
    return speed_line(
        "index_search", peer, Paired(left.timings, right.timings), work | {"target_recall": target}, versions, command,
        recall_at_10={"project": left.recall, "peer": right.recall},
        is_quality_reached=left.recall >= target,
        has_peer_reached=right.recall >= target,
        setting={"project": left.setting, "peer": right.setting},
        **more,
    )  # fmt: skip


def _to_front(points: dict[str, list[Point]], num_queries: int) -> dict[str, list[dict[str, Any]]]:
    """{index: [{"setting", "recall", "queries_per_second"}]}, for the picture and whoever wants the numbers."""
    return {
        name: [
            {"setting": p.setting, "recall": p.recall, "queries_per_second": round(p.speed(num_queries), 1)}
            for p in found
        ]
        for name, found in points.items()
    }
