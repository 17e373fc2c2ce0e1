"""Whole pair sums as rows that can be added and taken away. Runs in Spark's Python workers; needs no Spark.

    reduce_to_sums  packed units of a block -> rows of sums, unpruned
    merge_sums      rows of sums, sorted by src_idx -> one row an item
    score_sums      rows of sums -> rows of `item_graph`

    src_idx 4, num_units 3, row_sum 5, dst_idx [2, 9], sum [3, 2], count [3, 2]

Sums are integers (fixed point), so that a day's sums taken away leave exactly what was there before the day was added.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import LakeError
from recspark.graph import kernel, top_n
from recspark.graph.blocks import ROW_BUFFER
from recspark.graph.row_sums import SumRows, new_sum_rows, score_rows, take_row, take_rows
from recspark.graph.shuffle import (
    OUTPUT_ROWS,
    GraphPlan,
    Part,
    graph_batches,
    join_units,
    post_block,
    read_parts,
    sum_parts,
)
from recspark.graph.units import flatten

SUMS_SCHEMA = pa.schema(
    [
        (c.SRC_IDX, pa.int32()),
        (c.NUM_UNITS, pa.int64()),
        (c.ROW_SUM, pa.int64()),
        (c.DST_IDX, pa.list_(pa.int32())),
        (c.SUM, pa.list_(pa.int64())),
        (c.COUNT, pa.list_(pa.int32())),
    ]
)
MERGE_PAIRS = 500_000
"""Pairs that are merged, or scored, at a time; one item's rows alone may be more."""


@dataclass(frozen=True)
class ScorePlan:
    """All that scoring tasks need; broadcast."""

    pair: kernel.PairRule
    scores: top_n.ScoreRule
    num_items: int


def reduce_to_sums(batches: Iterable[pa.RecordBatch], plan: GraphPlan) -> Iterator[pa.RecordBatch]:
    """Rows of sums for the blocks and hot items that came here; ``num_units`` and ``row_sum`` are 0."""
    parts = read_parts(batches)
    if not parts:
        return
    row = kernel.new_accumulator(plan.num_items, plan.weights.rule.mode, plan.shape.by_user)
    for block in sorted(parts):
        if block < plan.blocks.num_blocks:
            yield from _take_block(block, join_units(parts.pop(block)), plan, row)
        else:
            yield from _take_hot_item(block - plan.blocks.num_blocks, parts.pop(block), plan, row)


def _take_block(block: int, units: kernel.Units, plan: GraphPlan, row: kernel.Accumulator) -> Iterator[pa.RecordBatch]:
    items, ptr, posting = post_block(block, units, plan)
    rows = new_sum_rows(len(items), max(ROW_BUFFER, plan.num_items))
    first = 0
    while first < len(items):
        last, used = take_rows(first, items, ptr, posting, units, plan.weights.rule, row, rows)
        yield from _sum_batches(items[first:last], rows, rows.sizes[first:last], used)
        first = last


def _take_hot_item(hot: int, parts: list[Part], plan: GraphPlan, row: kernel.Accumulator) -> Iterator[pa.RecordBatch]:
    num_touched = sum_parts(parts, plan, row)
    item = int(plan.blocks.hot_items[hot])
    rows = new_sum_rows(1, max(1, num_touched))
    used = take_row(item, num_touched, plan.weights.rule.mode, row, rows, 0)
    yield from _sum_batches(np.array([item], np.int32), rows, np.array([used], np.int32), used)


def _sum_batches(
    items: NDArray[np.int32], rows: SumRows, sizes: NDArray[np.int32], used: int
) -> Iterator[pa.RecordBatch]:
    filled = sizes > 0
    nothing = np.zeros(int(filled.sum()), np.int64)
    # The buffers are reused for the next rows: copied once here.
    lists = [values[:used].copy() for values in (rows.dst, rows.sums, rows.counts)]
    batch = _to_batch(items[filled], nothing, nothing, sizes[filled], *lists)
    for start in range(0, batch.num_rows, OUTPUT_ROWS):
        yield batch.slice(start, OUTPUT_ROWS)


def _to_batch(
    items: NDArray[np.int32],
    num_units: NDArray[np.int64],
    row_sums: NDArray[np.int64],
    sizes: NDArray[np.integer],
    *lists: NDArray[np.integer],
) -> pa.RecordBatch:
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    columns = [pa.ListArray.from_arrays(offsets, pa.array(values)) for values in lists]
    arrays = [pa.array(items), pa.array(num_units), pa.array(row_sums), *columns]
    return pa.RecordBatch.from_arrays(arrays, SUMS_SCHEMA.names)


def merge_sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """One row an item from rows sorted by it: everything added, pairs that are gone left out.

    Items that no unit holds any more come out with ``num_units`` 0, for the writer to delete.

    Raises: LakeError when more is taken away than was there.
    """
    for batch in _cut_between_items(batches):
        yield _merge_rows(batch)


def score_sums(batches: Iterable[pa.RecordBatch], plan: ScorePlan) -> Iterator[pa.RecordBatch]:
    """Rows of `item_graph`, as the full build would make them of the same sums."""
    row = kernel.new_accumulator(plan.num_items, plan.pair.mode, by_user=False)
    for batch in batches:
        if not batch.num_rows:
            continue
        items = batch.column(c.SRC_IDX).to_numpy()
        ptr, dst = flatten(batch.column(c.DST_IDX))
        sums, counts = (flatten(batch.column(name))[1] for name in (c.SUM, c.COUNT))
        stored = SumRows(np.diff(ptr).astype(np.int32), dst, sums, counts)
        rows = top_n.new_rows(len(items), max(ROW_BUFFER, min(plan.scores.limit, plan.num_items)))
        first = 0
        while first < len(items):
            last, used = score_rows(first, items, ptr, stored, plan.pair, plan.scores, row, rows)
            yield from graph_batches(items[first:last], rows, rows.sizes[first:last], used)
            first = last


def _cut_between_items(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of about `MERGE_PAIRS` pairs that hold all rows of their items."""
    waiting: list[pa.RecordBatch] = []
    num_pairs = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        num_pairs += len(batch.column(c.DST_IDX).flatten())
        if num_pairs < MERGE_PAIRS:
            continue
        joined = pa.concat_batches(waiting)
        items = joined.column(c.SRC_IDX).to_numpy()
        whole = int(np.searchsorted(items, items[-1]))
        if whole:
            yield joined.slice(0, whole)
        waiting = [joined.slice(whole)]
        num_pairs = len(waiting[0].column(c.DST_IDX).flatten())
    if waiting:
        yield pa.concat_batches(waiting)


def _merge_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    items = batch.column(c.SRC_IDX).to_numpy()
    firsts = np.flatnonzero(np.diff(items, prepend=-1))
    num_units = np.add.reduceat(batch.column(c.NUM_UNITS).to_numpy(), firsts)
    ptr, dst = flatten(batch.column(c.DST_IDX))
    place = np.cumsum(np.diff(items, prepend=-1) != 0) - 1  # of a row's item among the items
    keys = (np.repeat(place, np.diff(ptr)) << 32) | dst
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    pairs = np.flatnonzero(np.diff(keys, prepend=-1))
    sums, counts = (_add_runs(flatten(batch.column(name))[1][order], pairs) for name in (c.SUM, c.COUNT))
    if (counts < 0).any() or (num_units < 0).any() or (sums[counts == 0] != 0).any():
        raise LakeError("item_pair_sums: more would be taken away than was added; remove the table and build it anew")
    keys, sums, counts = keys[pairs][counts > 0], sums[counts > 0], counts[counts > 0]
    sizes = np.bincount(keys >> 32, minlength=len(firsts))
    until = np.concatenate([[0], np.cumsum(sums)])
    ends = np.cumsum(sizes)
    row_sums = until[ends] - until[ends - sizes]
    others = (keys & 0xFFFFFFFF).astype(np.int32)
    return _to_batch(items[firsts], num_units, row_sums, sizes, others, sums, counts.astype(np.int32))


def _add_runs(values: NDArray[np.integer], firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of the runs that begin at ``firsts``."""
    wide: NDArray[np.int64] = values.astype(np.int64)
    return np.add.reduceat(wide, firsts) if len(firsts) else wide
