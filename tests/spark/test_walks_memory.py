"""Sharded walks on a graph that no worker holds: peak anonymous memory, as the kernel counts it."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from recspark.contracts.tables import ITEM_GRAPH
from recspark.lake.arrow import TableAt, write_table
from recspark.walks import bursts, sharded
from recspark.walks import shard_graph as sg
from recspark.walks.bias import make_bias
from recspark.walks.bursts import ShardTask
from recspark.walks.pieces import Piece
from tests.helpers.tiny_lake import plan_tiny
from tests.helpers.walks_memory import watched

pytestmark = pytest.mark.spark

NUM_NODES, DEGREE, NUM_SHARDS = 600_000, 25, 96
MOST_BYTES = 220 << 20
"""Of a worker in all: Python, numpy, arrow and the compiled kernels are most of it."""


def random_graph():
    """Each node with as many random neighbours, as rows of `item_graph`."""
    random = np.random.default_rng(1)
    jumps = np.cumsum(random.integers(1, NUM_NODES // DEGREE, (NUM_NODES, DEGREE), dtype=np.int32), axis=1)
    targets = (np.arange(NUM_NODES, dtype=np.int32)[:, None] + jumps) % NUM_NODES
    offsets = pa.array(np.arange(NUM_NODES + 1, dtype=np.int32) * DEGREE)
    values = {"dst_idx": targets.ravel(), "score": random.random(targets.size, np.float32) + np.float32(0.1),
              "count": np.ones(targets.size, np.int32)}  # fmt: skip
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(v.astype(v.dtype))) for name, v in values.items()}
    return pa.table({"src_idx": pa.array(np.arange(NUM_NODES, dtype=np.int32)), **lists}).cast(ITEM_GRAPH.schema)


def test_a_graph_of_twice_a_workers_memory(spark, tmp_path, monkeypatch):
    run = plan_tiny(tmp_path)
    record = run.record("graph", is_marker=True)
    table = TableAt(run.lake, "item_graph", write_table(run.lake, ITEM_GRAPH, random_graph(), record), record)
    watch = tmp_path / "watch"
    watch.mkdir()
    for module, name in (
        (sg, "scan_batches"), (sg, "pack_batches"), (sg, "build_batches"),
        (bursts, "begin_batches"), (bursts, "burst_batches"), (bursts, "finished_batches"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, partial(watched, inner=getattr(module, name), folder=str(watch)))
    bias = make_bias(0.5, 2.0)
    plan = sg.ShardPlan(NUM_NODES, bias, True, True, None, str(tmp_path / "shards"))
    files = sharded.build_shards(spark, table, plan, NUM_SHARDS)
    task = ShardTask(files, bias, 1, 1, 4, None, Piece((0,), 0, 1), 4)
    with sharded.sharded_walks(spark, task) as frame:
        assert frame.count() == NUM_NODES
    peaks = {path.name: int(path.read_text()) for path in watch.iterdir()}
    assert {name.split("-")[0] for name in peaks} >= {"build_batches", "begin_batches", "burst_batches"}
    assert max(peaks.values()) < MOST_BYTES, peaks
    assert files.num_bytes >= 2 * MOST_BYTES, "the graph is no test of it"
