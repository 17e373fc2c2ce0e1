"""Walks on executors that are processes of their own, one of whose Python workers dies once. Run as a program.

Prints one JSON line: how many times a worker died, whether the graph was shipped, the digest of the walks.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from recspark.config import RunConfig, plan_run
from recspark.walks import replicated
from recspark.walks.plan import find_starts
from recspark.walks.walk_graph import build_walk_graph, make_bias
from recspark.walks.workers import WalkTask, walk_batches
from tests.helpers.walks import ring_with_chords, sha_of_walks

NUM_CHUNKS = 8


def die_once(chunks: Iterable[pa.RecordBatch], task: WalkTask, marker: str) -> Iterator[pa.RecordBatch]:
    """The worker function, except that the first process to have yielded a batch ends without a word."""
    for batch in walk_batches(chunks, task):
        yield batch
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        os._exit(1)


def make_task(files) -> WalkTask:  # type: ignore[no-untyped-def]
    """The same task for the cluster and for the process that compares."""
    return WalkTask(files, make_bias(0.5, 2.0), 3, 40, 10, 1, 12, NUM_CHUNKS)


def main(master: str, folder: str) -> None:
    """Builds the walks of a ring on ``master`` with 3 partitions."""
    from recspark.lake.spark import build_spark

    values = {
        "split": {"kind": "time", "cut": "2026-01-01"},
        "spark": {"master": master, "driver_memory": "512m", "conf": {"spark.executor.memory": "512m"}},
    }
    spark = build_spark(plan_run(RunConfig.model_validate(values), {"fingerprint": "tests"}))
    graph = ring_with_chords()
    files = replicated.publish_graph(
        spark, {"test": "cluster"}, lambda: (build_walk_graph(graph, make_bias(0.5, 2.0)), find_starts(graph))
    )
    marker = Path(folder, "died")
    replicated.walk_batches = partial(die_once, marker=str(marker))  # type: ignore[assignment]
    rows = replicated.walk_frame(spark, make_task(files), 3).toArrow()
    print(json.dumps({"died": marker.exists(), "shipped": files.folder is None, "sha": sha_of_walks([rows])}))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
