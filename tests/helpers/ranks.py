"""Runs a function on several gloo processes, as torchrun would start them, with a time-out that leaves none behind."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.helpers.warm_ranks import WarmRank, WarmServer

ROOT = Path(__file__).resolve().parents[2]
Process = subprocess.Popen[str] | WarmRank


def run_ranks(
    function: Any, num_ranks: int, arguments: dict[str, Any], timeout_s: float = 60, fault: str | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Runs a module-level function on ranks 0..num_ranks-1; how each ended. On time-out all are killed and it raises.

    ``fault`` is armed on rank 0 (`recspark.faults`).
    """
    return wait_for_all(start_ranks(function, num_ranks, arguments, fault), timeout_s)


def start_ranks(function: Any, num_ranks: int, arguments: dict[str, Any], fault: str | None = None) -> list[WarmRank]:
    """Starts the ranks, each in a process group of its own."""
    port = _free_port()
    processes = []
    for rank in range(num_ranks):
        environment = rank_environment(rank, num_ranks, port)
        if fault and rank == 0:
            environment["RECSPARK_FAULT"] = fault
        processes.append(_warm_server().start(environment, function.__module__, function.__name__, arguments))
    return processes


@cache
def _warm_server() -> WarmServer:
    return WarmServer(ROOT)


def stop(processes: Sequence[Process]) -> None:
    """Kills those that still run, with their children."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def check_ranks(*args: Any, **named: Any) -> None:
    """`run_ranks`, and every rank has to end well."""
    for rank, done in enumerate(run_ranks(*args, **named)):
        assert done.returncode == 0, f"rank {rank} ended with {done.returncode}:\n{done.stderr[-4000:]}"


def wait_for_all(processes: Sequence[Process], timeout_s: float) -> list[subprocess.CompletedProcess[str]]:
    """Waits; whatever still runs at the time-out is killed with its children."""
    deadline = time.monotonic() + timeout_s
    ended = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
            ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        stop(processes)
    return ended


def rank_environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """The environment torchrun would give a rank of one machine."""
    own = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    return os.environ | {name: str(value) for name, value in own.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
