"""`recommend`: top-50 lists for a million users, from Delta to Delta, against exact scoring by numpy on as many cores.

Both read the same tables and write Parquet. A line for lists through the index and one for exact ones; time, users a
second and peak memory of both sides. A side is a process of its own.
"""

import tempfile
from collections.abc import Iterator
from typing import Any

from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.recommend_lake import DIM, EVENTS
from benchmarks.worker import ONE_THREAD, Worker, WorkerError

_FULL = {"num_users": 1_000_000, "num_items": 50_000, "k": 50, "cores": 2, "runs": 1}
_QUICK = {"num_users": 20_000, "num_items": 5_000, "k": 50, "cores": 2, "runs": 2}
_MODULE = "benchmarks.recommend_worker"


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each way of search."""
    shape = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory() as folder:
        with Worker(_MODULE) as builder:
            builder.ask("build", folder=folder, num_users=shape["num_users"], num_items=shape["num_items"])
        for search in ("index", "exact"):
            yield compare(folder, shape, search, command)


def compare(folder: str, shape: dict[str, int], search: str, command: str) -> dict[str, Any]:
    """Seconds of all lists by the project and by the peer."""
    threads = dict.fromkeys(ONE_THREAD, str(shape["cores"]))
    with Worker(_MODULE, environment=threads) as project, Worker(_MODULE, environment=threads) as peer:
        project.ask("load", folder=folder, k=shape["k"], search=search)
        peer.ask("load", folder=folder, k=shape["k"], search="peer")
        paired = run_pairs(lambda: _list(peer, shape), lambda: _list(project, shape), shape["runs"])
        peaks = {side: worker.ask("peak")["peak_memory_mb"] for side, worker in (("project", project), ("peer", peer))}
    work = {name: shape[name] for name in ("num_users", "num_items", "k", "cores")}
    return speed_line(
        "recommend",
        "numpy, all scores and argpartition",
        paired,
        work | {"dim": DIM, "events_a_user": EVENTS, "search": search},
        find_versions("faiss-cpu", "deltalake", "pyarrow", "numpy", "scipy"),
        command,
        users_per_second=round(shape["num_users"] / paired.median_seconds("project")["wall"]),
        peak_memory_mb=peaks,
    )


def _list(worker: Worker, shape: dict[str, int]) -> Timing:
    found = worker.ask("run")
    if found["lists"] != shape["num_users"]:
        raise WorkerError(f"{_MODULE}: {found['lists']:,} lists, expected {shape['num_users']:,}")
    return Timing(found["wall"], found["cpu"])
