"""Both ends of the one shuffle: units packed by block, blocks reduced to rows. Runs in Spark's Python workers.

    pack_batches    units -> one row a block and batch: its units, concatenated as bytes;
                    one row a hot item and task: the sums of its row so far
    reduce_batches  the rows of one block or hot item -> rows of `item_graph`

No pair ever is a row: what travels is each unit, once to each block that owns one of its items.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts.tables import ITEM_GRAPH
from recspark.graph import kernel, top_n
from recspark.graph.blocks import PACK_VALUES, ROW_BUFFER, BlockPlan
from recspark.graph.pairs import PairWeights, UnitShape
from recspark.graph.units import prepared_batches

PACKED_SCHEMA = "block int, lengths binary, items binary, item_weights binary, weights binary, users binary"
"""Units of a block; of a hot item (block = num_blocks + h): counts, item ids, nothing, fixed-point sums, nothing."""
_PARTS = {
    "lengths": np.int32,
    "items": np.int32,
    "item_weights": np.float32,
    "weights": np.float64,
    "users": np.int32,
}
_IN_ORDER = np.empty(0, np.int64)
Part = dict[str, NDArray[Any]]
"""One packed row, by the names of `PACKED_SCHEMA`."""
OUTPUT_ROWS = 20_000
"""Rows of a batch handed to Spark."""


@dataclass(frozen=True)
class GraphPlan:
    """All that map and reduce tasks need; broadcast."""

    shape: UnitShape
    weights: PairWeights
    blocks: BlockPlan
    scores: top_n.ScoreRule

    @property
    def num_items(self) -> int:
        """Size of the vocabulary."""
        return len(self.blocks.block_of)


class HotRows:
    """Dense partial rows of the hot items, summed where the units are."""

    def __init__(self, plan: GraphPlan) -> None:
        num_hot, num_items = len(plan.blocks.hot_items), plan.num_items
        self._plan = plan
        self._rows = [
            kernel.new_accumulator(num_items, plan.weights.rule.mode, plan.shape.by_user) for _ in range(num_hot)
        ]
        self._user_counts = [np.zeros(num_items, np.int32) for _ in range(num_hot if plan.shape.by_user else 0)]
        self._hot_of = np.full(num_items, -1, np.int32)
        self._hot_of[plan.blocks.hot_items] = np.arange(num_hot, dtype=np.int32)

    def add(self, units: kernel.Units) -> None:
        """Adds the pairs of the hot items in these units."""
        if not self._rows:
            return
        rule = self._plan.weights.rule
        ptr, posting = kernel.build_postings(units.indptr, units.items, _IN_ORDER, self._hot_of, len(self._rows))
        for hot, item in enumerate(self._plan.blocks.hot_items):
            of_item, row = posting[ptr[hot] : ptr[hot + 1]], self._rows[hot]
            # `touched` restarts at 0: its entries are not used, the dense row is.
            kernel.add_pairs(int(item), of_item, units, rule, row, 0)
            if self._user_counts:
                counts = self._user_counts[hot]
                kernel.count_users(int(item), of_item, units, rule.window, row.last_user, counts)

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        """One sparse row a hot item that met a pair."""
        has_sums = self._plan.weights.rule.mode != kernel.PLAIN
        for hot, row in enumerate(self._rows):
            counts = self._user_counts[hot] if self._user_counts else row.counts
            items = np.flatnonzero(counts).astype(np.int32)
            if len(items):
                sums = row.sums[items] if has_sums else np.empty(0, np.int64)
                arrays: list[NDArray[Any]] = [counts[items], items, np.empty(0, np.float32), sums, _IN_ORDER]
                values = [pa.array([a.tobytes()], pa.binary()) for a in arrays]
                block = pa.array([self._plan.blocks.num_blocks + hot], pa.int32())
                yield pa.RecordBatch.from_arrays([block, *values], ["block", *_PARTS])


def pack_batches(batches: Iterable[pa.RecordBatch], plan: GraphPlan) -> Iterator[pa.RecordBatch]:
    """Packed units of one partition, then its hot rows."""
    hot_rows = HotRows(plan)
    for batch in prepared_batches(batches, plan.shape, plan.num_items):
        units = batch.units(plan.weights)
        hot_rows.add(units)
        for first, last in cut_chunks(batch.indptr, batch.distinct, plan.blocks.num_blocks):
            yield _pack_chunk(units, batch.distinct, first, last, plan.blocks)
    yield from hot_rows.to_batches()


def cut_chunks(indptr: NDArray[np.int64], distinct: NDArray[np.int32], num_blocks: int) -> list[tuple[int, int]]:
    """Half-open runs of units whose packed copies hold at most `PACK_VALUES` items (one unit alone may hold more)."""
    copies = np.cumsum(np.diff(indptr) * np.minimum(distinct, num_blocks))
    chunks, first = [], 0
    while first < len(copies):
        done = int(copies[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(copies, done + PACK_VALUES, side="right")))
        chunks.append((first, last))
        first = last
    return chunks


def reduce_batches(batches: Iterable[pa.RecordBatch], plan: GraphPlan) -> Iterator[pa.RecordBatch]:
    """Rows of `item_graph` for the blocks and hot items that came here (one a task, as Spark partitions them)."""
    parts = read_parts(batches)
    if not parts:
        return
    row = kernel.new_accumulator(plan.num_items, plan.weights.rule.mode, plan.shape.by_user)
    for block in sorted(parts):
        if block < plan.blocks.num_blocks:
            yield from _reduce_block(block, join_units(parts.pop(block)), plan, row)
        else:
            yield from _reduce_hot_item(block - plan.blocks.num_blocks, parts.pop(block), plan, row)


def read_parts(batches: Iterable[pa.RecordBatch]) -> dict[int, list[Part]]:
    """What was packed, by block; views of Arrow's memory."""
    parts: dict[int, list[Part]] = {}
    for batch in batches:
        columns = [batch.column(name) for name in _PARTS]
        for number, block in enumerate(batch.column("block").to_pylist()):
            parts.setdefault(block, []).append(
                {
                    name: np.frombuffer(column[number].as_buffer(), kind)
                    for (name, kind), column in zip(_PARTS.items(), columns, strict=True)
                }
            )
    return parts


def _pack_chunk(
    units: kernel.Units, distinct: NDArray[np.int32], first: int, last: int, plan: BlockPlan
) -> pa.RecordBatch:
    unit_ptr, item_ptr, *arrays = kernel.pack_units(units, distinct, first, last, plan.block_of, plan.num_blocks)
    filled = np.flatnonzero(np.diff(unit_ptr))
    pointers = (unit_ptr, item_ptr, item_ptr, unit_ptr, unit_ptr)
    values = [_binary_column(a, p, filled) for a, p in zip(arrays, pointers, strict=True)]
    return pa.RecordBatch.from_arrays([pa.array(filled.astype(np.int32)), *values], ["block", *_PARTS])


def _binary_column(array: NDArray[Any], ptr: NDArray[np.int64], filled: NDArray[np.int64]) -> pa.Array:
    """One binary value a filled block: slices of one flat buffer, not copied; all empty where the array is."""
    ends = ptr[filled + 1] if len(array) else np.zeros(len(filled), np.int64)
    offsets = np.concatenate([[0], ends]) * array.itemsize
    assert offsets[-1] < 2**31, "a packed batch outgrew 2 GB"
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(array)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(filled), buffers)


def join_units(parts: list[Part]) -> kernel.Units:
    """All units of a block; ``parts`` is emptied."""
    joined = {name: np.concatenate([p[name] for p in parts]) for name in _PARTS}
    parts.clear()
    indptr = np.zeros(len(joined["lengths"]) + 1, np.int64)
    np.cumsum(joined["lengths"], out=indptr[1:])
    return kernel.Units(indptr, joined["items"], joined["item_weights"], joined["weights"], joined["users"])


def post_block(
    block: int, units: kernel.Units, plan: GraphPlan
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
    """(items of a block, ptr, posting): `kernel.build_postings` of the items that the block owns."""
    items = np.flatnonzero(plan.blocks.block_of == block).astype(np.int32)
    local_of = np.full(plan.num_items, -1, np.int32)
    local_of[items] = np.arange(len(items), dtype=np.int32)
    # By user: what arrives is in the order of tasks and batches, and users are counted as they change.
    order = np.argsort(units.users, kind="stable")
    ptr, posting = kernel.build_postings(units.indptr, units.items, order, local_of, len(items))
    return items, ptr, posting


def sum_parts(parts: list[Part], plan: GraphPlan, row: kernel.Accumulator) -> int:
    """Adds the partial rows of a hot item to an empty row; the number of touched items."""
    for part in parts:
        row.counts[part["items"]] += part["lengths"]
        if plan.weights.rule.mode != kernel.PLAIN:
            row.sums[part["items"]] += part["weights"].view(np.int64)
    touched = np.flatnonzero(row.counts)
    row.touched[: len(touched)] = touched
    return len(touched)


def _reduce_block(
    block: int, units: kernel.Units, plan: GraphPlan, row: kernel.Accumulator
) -> Iterator[pa.RecordBatch]:
    items, ptr, posting = post_block(block, units, plan)
    rows = top_n.new_rows(len(items), max(ROW_BUFFER, plan.num_items))
    first = 0
    while first < len(items):
        last, used = top_n.build_rows(first, items, ptr, posting, units, plan.weights.rule, plan.scores, row, rows)
        yield from graph_batches(items[first:last], rows, rows.sizes[first:last], used)
        first = last


def _reduce_hot_item(hot: int, parts: list[Part], plan: GraphPlan, row: kernel.Accumulator) -> Iterator[pa.RecordBatch]:
    num_touched = sum_parts(parts, plan, row)
    item = int(plan.blocks.hot_items[hot])
    rows = top_n.new_rows(1, max(1, plan.scores.limit))
    used = top_n.select_row(item, num_touched, plan.weights.rule, plan.scores, row, rows, 0)
    yield from graph_batches(np.array([item], np.int32), rows, np.array([used], np.int32), used)


def graph_batches(
    items: NDArray[np.int32], rows: top_n.Rows, sizes: NDArray[np.int32], used: int
) -> Iterator[pa.RecordBatch]:
    """Batches of `item_graph` with exactly its types: mapInArrow does not cast. Items without neighbours drop out."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int32))
    # The buffers are reused for the next rows: copied once here.
    lists = [pa.ListArray.from_arrays(offsets, pa.array(v[:used].copy())) for v in (rows.dst, rows.scores, rows.counts)]
    batch = pa.RecordBatch.from_arrays([pa.array(items[sizes > 0]), *lists], ITEM_GRAPH.schema.names)
    for start in range(0, batch.num_rows, OUTPUT_ROWS):
        yield batch.slice(start, OUTPUT_ROWS)
