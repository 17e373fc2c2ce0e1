"""Compiles the kernels once, on the driver, into the cache that the workers read: else each worker pays seconds."""

import numpy as np
import pyarrow as pa

from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c
from recspark.graph.blocks import BlockPlan
from recspark.graph.pair_sums import ScorePlan, merge_sums, reduce_to_sums, score_sums
from recspark.graph.pairs import pair_weights, unit_shape
from recspark.graph.scores import score_counts, score_rule
from recspark.graph.shuffle import GraphPlan, pack_batches, reduce_batches
from recspark.graph.stats import count_partition, sum_partition
from recspark.graph.units import TIME_US


def compile_kernels() -> None:
    """Runs every kernel on three items; types decide what is compiled, and all configs share them."""
    for config in (GraphConfig(score="count", num_neighbours=1), GraphConfig(num_neighbours=1, support="user")):
        _run_all(config)


def _run_all(config: GraphConfig) -> None:
    shape = unit_shape(config)
    lists = pa.ListArray.from_arrays(pa.array([0, 3], pa.int32()), pa.array([0, 1, 2], pa.int32()))
    columns = [lists, pa.array([0], pa.int64()), pa.array([0], pa.int32())]
    batch = pa.RecordBatch.from_arrays(columns, [c.ITEM_IDX, TIME_US, c.USER_IDX])
    stats = count_partition([batch], shape, 3)
    weights = pair_weights(config, stats.num_units, stats.longest, 1.0, 0)
    sum_partition([batch], shape, weights, 3)
    # Items 0 and 1 in a block, 2 hot: both ways are run.
    blocks = BlockPlan(np.array([0, 0, -1], np.int32), 1, np.array([2], np.int32), 0, 0)
    plan = GraphPlan(shape, weights, blocks, score_rule(config, *score_counts(config, stats)))
    rows = sum(b.num_rows for b in reduce_batches(pack_batches([batch], plan), plan))
    assert rows == 3
    sums = pa.Table.from_batches(reduce_to_sums(pack_batches([batch], plan), plan))
    scored = score_sums(merge_sums(sums.sort_by(c.SRC_IDX).to_batches()), ScorePlan(weights.rule, plan.scores, 3))
    assert sum(b.num_rows for b in scored) == 3
