"""One setting of `growth` in a process of its own, so that its peak memory is nobody else's."""

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import SENTENCE
from benchmarks.paired import timed
from benchmarks.skip_gram_runs import WARM_UP_ROWS, cut_batches, objective_of, train_batches, training_config
from benchmarks.worker import serve

_held: dict[str, Any] = {}


def load(tokens: str, counts: str, dim: int, backend: str) -> None:
    """Reads the corpus, and trains a little on another: code is compiled, libraries are loaded."""
    _held.update(tokens=np.load(tokens), counts=np.load(counts), dim=dim, backend=backend)
    few = np.random.default_rng(0).integers(0, 50, (WARM_UP_ROWS, SENTENCE)).astype(np.int32)
    _train(few, np.bincount(few.ravel(), minlength=50))


def run() -> dict[str, float]:
    """Seconds of an epoch, and those of its tables' start before it."""
    return _train(_held["tokens"], _held["counts"])


def peak() -> dict[str, float]:
    """The largest memory this process has had: libraries, tokens, tables, batches."""
    return {"peak_memory_mb": round(peak_memory_bytes() / 1e6)}


def peak_memory_bytes() -> int:
    """This process's largest resident size so far, without that of its parent, which `getrusage` inherits on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _train(tokens: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    config = training_config(epochs=1, num_threads=1, backend=_held["backend"])
    with timed() as start:
        backend = _open_backend(_held["dim"], objective_of(config, counts))
    timing = train_batches(backend, cut_batches(tokens, config.batch_sequences), config)
    return {"wall": timing.wall, "cpu": timing.cpu, "table_start_seconds": start.wall}


def _open_backend(dim: int, objective: Any) -> Any:
    if _held["backend"] == "torch":
        from recspark.training.torch_backend import TorchBackend
        from recspark.training.world import World

        return TorchBackend(dim, objective, World(), 1)
    from recspark.training.cpu_backend import CpuBackend

    return CpuBackend(dim, objective)


if __name__ == "__main__":
    serve({"load": load, "run": run, "peak": peak})
