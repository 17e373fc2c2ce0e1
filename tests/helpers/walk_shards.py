"""Sharded walks without Spark: what it does between worker functions, in a loop."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recspark.contracts.tables import ITEM_GRAPH
from recspark.walks import shard_graph as sg
from recspark.walks.bursts import ShardTask, begin_batches, burst_batches, finished_batches
from recspark.walks.messages import NOWHERE
from recspark.walks.shard_files import ShardFiles, join_thresholds
from tests.helpers.walks import chunk_numbers


def graph_rows(edges):
    """Rows of `item_graph` of {(src, dst): weight}."""
    rows = {}
    for (src, dst), weight in edges.items():
        rows.setdefault(src, []).append((dst, weight))
    return pa.Table.from_pylist(
        [
            {"src_idx": s, "dst_idx": [d for d, _ in row], "score": [w for _, w in row], "count": [1] * len(row)}
            for s, row in rows.items()
        ],
        schema=ITEM_GRAPH.schema,
    )


def build_files(rows, plan, num_shards):
    """The shards of a graph, as `sharded.build_shards` has Spark build them."""
    batches = rows.to_batches(max_chunksize=3)
    (scanned,) = sg.scan_batches(batches, plan)
    assert scanned.column("flaws")[0].as_py() == 0
    counts = np.frombuffer(scanned.column("edges")[0].as_py(), np.int64)
    plan = sg.ShardPlan(**(vars(plan) | {"bounds": sg.cut_nodes(counts, plan.num_nodes, num_shards)}))
    packed = pa.Table.from_batches(sg.pack_batches(batches, plan), sg.PACK_SCHEMA)
    nothing = {"sources": b"", "targets": b"", "weights": b"", "is_reverse": False}
    facts = []
    for shard in range(len(plan.bounds) - 1):
        mine = [*packed.filter(pc.equal(packed["shard"], shard)).to_pylist(), {"shard": shard} | nothing]
        facts += next(sg.build_batches(pa.Table.from_pylist(mine, sg.PACK_SCHEMA).to_batches(), plan)).to_pylist()
    names = [f["name"] for f in facts]
    if plan.bias.is_plus:
        join_thresholds(plan.folder, names)
    return ShardFiles(
        plan.folder, tuple(names), plan.bounds, tuple(f["num_edges"] for f in facts),
        sum(f["num_starts"] for f in facts), sum(f["num_bytes"] for f in facts), plan.bias.is_plus,
    )  # fmt: skip


def run_rounds(task: ShardTask):
    """(rows of `walks`, rounds): messages go to shards until none moves, finished walks to their files."""
    num_shards = task.files.num_shards
    rows = pa.Table.from_batches(begin_batches(chunk_numbers(num_shards), task))
    finished, rounds = [], 1
    while True:
        finished.append(rows.filter(pc.equal(rows["shard"], NOWHERE)))
        arrived = [rows.filter(pc.equal(rows["shard"], s)).to_batches(max_chunksize=2) for s in range(num_shards)]
        if not any(arrived):
            break
        rows = pa.concat_tables(pa.Table.from_batches(burst_batches(a, task), rows.schema) for a in arrived if a)
        rounds += 1
    messages = pa.concat_tables(finished)
    walks = []
    for file in range(task.num_files):
        of_file = messages.filter(pc.equal(messages["file"], file)).to_batches(max_chunksize=2)
        walks += list(finished_batches(of_file, task))
    return walks, rounds
