"""`growth`: how the cost a token grows with the catalogue, the dimension and the corpus; memory and tables' start too.

One of the three grows at a time; each line compares a token's cost with the smallest setting's (ratio < 1: dearer). The
CPU kernel grows in all three, the torch path in catalogue and dimension. A setting is a process of its own.
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import make_corpus
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.worker import Worker

_BASE = {"num_items": 50_000, "dim": 64, "tokens": 1_000_000}
_QUICK_BASE = {"num_items": 5_000, "dim": 64, "tokens": 100_000}
_GROWN = {"num_items": (500_000, 5_000_000), "dim": (128, 256), "tokens": (10_000_000, 100_000_000)}
_QUICK_GROWN = {"num_items": (50_000,), "dim": (128,), "tokens": (1_000_000,)}
_GROWS = {"cpu": ("num_items", "dim", "tokens"), "torch": ("num_items", "dim")}
_PEERS = {"cpu": "the smallest setting", "torch": "the smallest setting, torch path"}


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each grown setting of each backend."""
    base, grown = (_QUICK_BASE, _QUICK_GROWN) if quick else (_BASE, _GROWN)
    for backend, names in _GROWS.items():
        with open_setting(base, backend) as smallest:
            for shape in [base | {name: value} for name in names for value in grown[name]]:
                with open_setting(shape, backend) as larger:
                    runs = 1 if shape["tokens"] >= 100_000_000 else 2
                    yield compare(smallest, larger, runs, command)


class Setting:
    """A process that has loaded its corpus."""

    def __init__(self, shape: dict[str, int], backend: str, worker: Worker) -> None:
        self.shape, self.backend = shape, backend
        self._worker = worker
        self._starts: list[float] = []

    def train(self) -> Timing:
        """An epoch: seconds a million tokens."""
        found = self._worker.ask("run")
        self._starts.append(found["table_start_seconds"])
        millions = self.shape["tokens"] / 1e6
        return Timing(found["wall"] / millions, found["cpu"] / millions)

    def start_seconds(self) -> float:
        """Of noise table and vectors, before the first batch: median of the runs so far."""
        return statistics.median(self._starts)

    def peak_memory_mb(self) -> float:
        """Of the whole process so far, in 10^6 bytes."""
        return float(self._worker.ask("peak")["peak_memory_mb"])


@contextmanager
def open_setting(shape: dict[str, int], backend: str) -> Iterator[Setting]:
    """A setting's process, warmed up; it ends with the block."""
    with Worker("benchmarks.growth_worker") as worker:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            corpus = make_corpus(shape["num_items"], shape["tokens"])
            np.save(folder / "tokens.npy", corpus.tokens)
            np.save(folder / "counts.npy", corpus.counts)
            files = {what: str(folder / f"{what}.npy") for what in ("tokens", "counts")}
            del corpus
            worker.ask("load", dim=shape["dim"], backend=backend, **files)
        yield Setting(shape, backend, worker)


def compare(smallest: Setting, larger: Setting, runs: int, command: str) -> dict[str, Any]:
    """Seconds a million tokens of two settings, one thread; memory and tables' start of both."""
    paired = run_pairs(smallest.train, larger.train, runs)
    sides = {"grown": larger, "base": smallest}
    return speed_line(
        "growth",
        _PEERS[larger.backend],
        paired,
        larger.shape | {"base": smallest.shape, "threads": 1, "unit": "a million tokens"},
        find_versions("numpy", "torch" if larger.backend == "torch" else "numba"),
        command,
        tokens_per_second=round(1e6 / paired.median_seconds("project")["wall"]),
        peak_memory_mb={side: setting.peak_memory_mb() for side, setting in sides.items()},
        table_start_seconds={side: setting.start_seconds() for side, setting in sides.items()},
    )
