"""Runs a function on several gloo processes, as torchrun would start them, with a time-out that leaves none behind.

python -m tests.helpers.ranks MODULE FUNCTION ARGUMENTS     one rank; ARGUMENTS is a JSON object of keyword arguments
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recspark.ending import calm_ending

ROOT = Path(__file__).resolve().parents[2]


def run_ranks(
    function: Any, num_ranks: int, arguments: dict[str, Any], timeout_s: float = 60, fault: str | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """Runs a module-level function on ranks 0..num_ranks-1; how each ended. On time-out all are killed and it raises.

    ``fault`` is armed on rank 0 (`recspark.faults`).
    """
    return wait_for_all(start_ranks(function, num_ranks, arguments, fault), timeout_s)


def start_ranks(
    function: Any, num_ranks: int, arguments: dict[str, Any], fault: str | None = None
) -> list[subprocess.Popen[str]]:
    """Starts the ranks, each in a process group of its own."""
    command = [sys.executable, "-m", "tests.helpers.ranks", function.__module__, function.__name__]
    port = _free_port()
    processes = []
    for rank in range(num_ranks):
        environment = rank_environment(rank, num_ranks, port)
        if fault and rank == 0:
            environment["RECSPARK_FAULT"] = fault
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        given = [*command, json.dumps(arguments)]
        processes.append(subprocess.Popen(given, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes))
    return processes


def stop(processes: list[subprocess.Popen[str]]) -> None:
    """Kills those that still run, with their children."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def check_ranks(*args: Any, **named: Any) -> None:
    """`run_ranks`, and every rank has to end well."""
    for rank, done in enumerate(run_ranks(*args, **named)):
        assert done.returncode == 0, f"rank {rank} ended with {done.returncode}:\n{done.stderr[-4000:]}"


def wait_for_all(processes: list[subprocess.Popen[str]], timeout_s: float) -> list[subprocess.CompletedProcess[str]]:
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


if __name__ == "__main__":
    _, module, name, given = sys.argv
    with calm_ending():
        getattr(importlib.import_module(module), name)(**json.loads(given))
