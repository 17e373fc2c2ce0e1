"""How much anonymous memory a worker function takes: sampled from inside the worker while it runs."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

_PERIOD_SECONDS = 0.002


def anonymous_bytes() -> int:
    """RssAnon of this process: memory maps of files do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon")


def watched(
    batches: Iterable[pa.RecordBatch], task: Any, inner: Callable[..., Iterator[pa.RecordBatch]], folder: str
) -> Iterator[pa.RecordBatch]:
    """A worker function that leaves a file with the peak of its process's anonymous memory."""
    peak = anonymous_bytes()
    over = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not over.wait(_PERIOD_SECONDS):
            peak = max(peak, anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield from inner(batches, task)
    finally:
        over.set()
        sampler.join()
        peak = max(peak, anonymous_bytes())
        Path(folder, f"{inner.__name__}-{os.getpid()}-{time.monotonic_ns()}").write_text(str(peak))
