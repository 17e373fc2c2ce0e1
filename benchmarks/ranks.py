"""`ranks`: what ranks cost and give on the torch path, one intra-op thread a rank unless a line says otherwise.

- one rank against the same step on plain tensors, without row-sharded tables: about 1, one rank pays nothing for them;
- two gloo ranks against one;
- one rank with two threads against one: what the second core gives without a second process;
- two runs of one rank at once against one after the other: what the second core gives at best, as nothing is shared.

Wall time counts where two cores are used on purpose. Steps before the clock starts are left out.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.lines import BenchmarkError, find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.worker import ONE_THREAD, ROOT

_TIMEOUT_S = 900


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for one rank against plain tensors; for two batch sizes two ranks and two threads, against one rank."""
    work = {"num_items": 50_000, "dim": 128, "batch_sequences": 1024, "steps": 20 if quick else 60}
    large = work | {"batch_sequences": 4096, "steps": work["steps"] // 4}
    runs = 2 if quick else 3
    versions = find_versions("torch", "numpy", "numba")
    plain = run_pairs(lambda: train(1, 1, work | {"tables": "plain"}), lambda: train(1, 1, work), 2 * runs)
    yield speed_line("ranks", "plain tensors", plain, work | {"ranks": 1, "threads_per_rank": 1}, versions, command)
    for batch in (work, large):
        at_once = run_pairs(lambda b=batch: train(1, 1, b), lambda b=batch: train_two_at_once(b), runs)  # type: ignore[misc]
        yield speed_line(
            "ranks", "one rank, two runs at once", at_once, batch | {"ranks": 1, "threads_per_rank": 1}, versions,
            command, counts="wall",
        )  # fmt: skip
        for peer, ranks, threads in (("one rank", 2, 1), ("one rank, two threads instead", 1, 2)):
            paired = run_pairs(
                lambda b=batch: train(1, 1, b),  # type: ignore[misc]
                lambda b=batch, r=ranks, t=threads: train(r, t, b),  # type: ignore[misc]
                runs,
            )
            shape = {"ranks": ranks, "threads_per_rank": threads}
            yield speed_line("ranks", peer, paired, batch | shape, versions, command, counts="wall")


def train(num_ranks: int, num_threads: int, work: dict[str, Any]) -> Timing:
    """The steps' seconds as rank 0 saw them; cpu-seconds are of all ranks."""
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.rank_worker", json.dumps(work | {"threads": num_threads})]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=_environment(r, num_ranks, port, num_threads), stdout=subprocess.PIPE)
        for r in range(num_ranks)
    ]
    try:
        answers = [p.communicate(timeout=_TIMEOUT_S)[0] for p in processes]
    finally:
        for p in processes:
            p.kill()
    if any(p.returncode for p in processes):
        raise BenchmarkError(f"ranks: a rank ended with {[p.returncode for p in processes]}; see its errors above")
    found = [json.loads(a.splitlines()[-1]) for a in answers]
    return Timing(found[0]["wall"], sum(f["cpu"] for f in found))


def train_two_at_once(work: dict[str, Any]) -> Timing:
    """Seconds a run, of two runs of one rank that share nothing but the machine."""
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: train(1, 1, work), range(2)))
    return Timing(max(timing.wall for timing in both) / 2, sum(timing.cpu for timing in both) / 2)


def _environment(rank: int, num_ranks: int, port: int, num_threads: int) -> dict[str, str]:
    own = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": ROOT,
    }  # fmt: skip
    threads = {name: str(num_threads) for name in ONE_THREAD}
    return os.environ | threads | {name: str(value) for name, value in own.items()}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
