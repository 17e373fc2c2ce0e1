"""Walks on executors that are processes of their own, whose Python workers die once. Run as a program.

Prints one JSON line: where workers died, whether the graph was shipped, the digest of the walks in each mode.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import ITEM_GRAPH
from recspark.lake.arrow import TableAt, write_table
from recspark.walks import bursts, replicated, shard_graph, sharded
from recspark.walks.bias import make_bias
from recspark.walks.bursts import ShardTask
from recspark.walks.pieces import Piece
from recspark.walks.starts import find_starts
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.workers import WalkTask, walk_batches
from tests.helpers.walks import ring_with_chords, rows_of_graph, sha_of_walks

NUM_CHUNKS = 8
BIAS = make_bias(0.5, 2.0)
WORKERS = (
    (shard_graph, "build_batches"),
    (bursts, "begin_batches"),
    (bursts, "burst_batches"),
    (bursts, "finished_batches"),
)


def once(marker: str) -> bool:
    """Whether nobody has asked before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die_once(
    batches: Iterable[pa.RecordBatch], task: Any, inner: Callable[..., Iterator[pa.RecordBatch]], marker: str
) -> Iterator[pa.RecordBatch]:
    """A worker function, except that the first process to have yielded a batch ends without a word."""
    for batch in inner(batches, task):
        yield batch
        if once(marker):
            os._exit(1)


def make_task(files) -> WalkTask:  # type: ignore[no-untyped-def]
    """The same task for the cluster and for the process that compares."""
    return WalkTask(files, BIAS, 3, 10, 12, Piece((0,), 0, 1), NUM_CHUNKS)


def run_replicated(spark, folder: str) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Walks of a ring on 3 partitions."""
    graph = ring_with_chords()
    files = replicated.publish_graph(
        spark, {"test": "cluster"}, lambda: (build_walk_graph(graph, BIAS), find_starts(graph.indptr))
    )
    replicated.walk_batches = partial(die_once, inner=walk_batches, marker=f"{folder}/replicated")  # type: ignore
    rows = replicated.walk_frame(spark, make_task(files), 3).toArrow()
    return {"shipped": files.folder is None, "replicated": sha_of_walks([rows])}


def run_sharded(spark, run, folder: str) -> str:  # type: ignore[no-untyped-def]
    """The same walks from 4 shards; a worker dies while it builds one, in two bursts and at the end."""
    graph = ring_with_chords()
    record = run.record("graph", is_marker=True)
    table = TableAt(run.lake, "item_graph", write_table(run.lake, ITEM_GRAPH, rows_of_graph(graph), record), record)
    for module, name in WORKERS:
        setattr(module, name, partial(die_once, inner=getattr(module, name), marker=f"{folder}/{name}"))
    plan = shard_graph.ShardPlan(graph.num_nodes, BIAS, True, True, None, f"{folder}/shards")
    files = sharded.build_shards(spark, table, plan, 4)
    task = ShardTask(files, BIAS, 3, 10, 12, None, Piece((0,), 0, 1), 4)
    with sharded.sharded_walks(spark, task) as frame:
        return sha_of_walks([frame.toArrow()])


def main(master: str, folder: str) -> None:
    """Builds the walks of a ring on ``master`` in both modes."""
    from recspark.lake.spark import build_spark

    values = {
        "paths": {"lake": f"{folder}/lake"},
        "split": {"kind": "time", "cut": "2026-01-01"},
        "spark": {
            "master": master,
            "driver_memory": "512m",
            "conf": {"spark.executor.memory": "512m"},
        },
    }
    run = plan_run(RunConfig.model_validate(values), {"fingerprint": "tests"})
    spark = build_spark(run)
    found = run_replicated(spark, folder) | {"sharded": run_sharded(spark, run, folder)}
    places = ("replicated", *(name for _, name in WORKERS))
    found["died"] = [name for name in places if Path(folder, name).exists()]
    print(json.dumps(found))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
