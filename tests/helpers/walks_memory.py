"""How much anonymous memory a worker function takes: sampled from inside the worker while it runs."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from recspark.walks.bursts import ShardTask
from tests.helpers.walk_shards import build_files, graph_rows, run_rounds

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
    """A worker function that leaves a file with the peak growth of its anonymous memory."""
    warm_up()
    before = peak = anonymous_bytes()
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
        Path(folder, f"{inner.__name__}-{os.getpid()}-{id(task)}-{peak}").write_text(str(peak - before))


_is_warm = False


def warm_up() -> None:
    """Loads the kernels once a process: compiled code is no part of a graph."""
    global _is_warm
    if _is_warm:
        return
    import tempfile

    from recspark.walks.bias import make_bias
    from recspark.walks.pieces import Piece
    from recspark.walks.shard_graph import ShardPlan

    bias = make_bias(0.5, 2.0)
    with tempfile.TemporaryDirectory() as folder:
        edges = graph_rows({(n, (n + d) % 9): 1.0 for n in range(9) for d in (1, 2)})
        files = build_files(edges, ShardPlan(9, bias, True, True, None, folder), 3)
        run_rounds(ShardTask(files, bias, 1, 2, 5, None, Piece((0,), 0, 1), 2))
    _is_warm = True
