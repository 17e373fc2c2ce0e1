"""Per-item sums over all units without a dense row per task on the driver. Runs in Spark's Python workers.

count_batches   units -> partial counts and costs of items   \\  one sparse row a run of items ("part")
sum_batches     units -> partial row sums of items (PPMI)    /
merge_batches   partial rows of a part -> one dense row a part
read_sums       dense rows -> arrays over all items, on the driver
"""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts.shards import shard_range
from recspark.graph import kernel
from recspark.graph.blocks import NUM_SHOWN, UnitStats
from recspark.graph.pairs import PairWeights, UnitShape
from recspark.graph.units import PreparedBatch, prepared_batches

ITEMS_A_PART = 1 << 20

PARTIAL_SCHEMA = "part int, items binary, values binary, lengths binary, totals string"
"""``values`` int64 [num_values, len(items)]; after the merge ``items`` is empty and all items of the part have values.
Part 0 carries ``lengths`` (int64) and ``totals`` (JSON) as well."""

_ARROW_SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("items", pa.binary()),
        ("values", pa.binary()),
        ("lengths", pa.binary()),
        ("totals", pa.string()),
    ]
)
_MAXIMA = ("longest", "max_item_weight", "newest_us")
_NO_LENGTHS = np.zeros(0, np.int64)

Totals = dict[str, Any]


def num_parts(num_items: int) -> int:
    """Runs of items that are merged side by side."""
    return max(1, -(-num_items // ITEMS_A_PART))


def count_batches(batches: Iterable[pa.RecordBatch], shape: UnitShape, num_items: int) -> Iterator[pa.RecordBatch]:
    """Partial `UnitStats` of one partition; nothing for an empty one."""
    stats = count_partition(batches, shape, num_items)
    if stats.num_units:
        totals: Totals = {f.name: getattr(stats, f.name) for f in fields(stats) if f.type in (int, float)}
        totals["largest"] = stats.largest
        values = [stats.unit_counts, stats.costs, *([] if stats.user_counts is None else [stats.user_counts])]
        yield from _partial_rows(np.stack(values), stats.lengths, totals)


def count_partition(batches: Iterable[pa.RecordBatch], shape: UnitShape, num_items: int) -> UnitStats:
    """The stats of one partition's units."""
    stats = UnitStats(np.zeros(num_items, np.int64), np.zeros(num_items, np.int64), _NO_LENGTHS)
    slots = np.full(num_items, -1, np.int32)
    if shape.by_user:
        stats.user_counts = np.zeros(num_items, np.int64)
    last_user, last = np.full(num_items if shape.by_user else 0, -1, np.int32), -1
    for batch in prepared_batches(batches, shape, num_items):
        kernel.count_units(batch.indptr, batch.items, batch.distinct, slots, stats.unit_counts, stats.costs)
        _add_totals(stats, batch, shape.max_items)
        if shape.by_user:
            kernel.count_user_items(batch.indptr, batch.items, batch.users, last_user, stats.user_counts)
            users = batch.users[np.diff(batch.indptr) > 0]
            stats.num_users += int(np.count_nonzero(np.diff(users, prepend=last)))
            last = int(users[-1]) if len(users) else last
    return stats


def _add_totals(stats: UnitStats, batch: PreparedBatch, max_items: int) -> None:
    lengths = np.diff(batch.indptr)
    distinct = batch.distinct.astype(np.int64)
    cut = np.maximum(batch.lengths_before - max_items, 0)
    stats.num_units += int(np.count_nonzero(lengths))
    stats.num_events += int(batch.lengths_before.sum()) + batch.cut_events
    stats.capped_users += batch.cut_users
    stats.capped_user_events += batch.cut_events
    stats.num_pairs += int((distinct * (distinct - 1) // 2).sum())
    stats.capped_units += int(np.count_nonzero(cut))
    stats.capped_events += int(cut.sum())
    stats.bad_weights += batch.num_bad_weights
    stats.largest = _find_largest([*stats.largest, *batch.lengths_before.tolist()])
    stats.longest = max(stats.longest, int(lengths.max(initial=0)))
    stats.max_item_weight = max(stats.max_item_weight, float(batch.item_weights.max(initial=0.0)))
    if batch.times_us is not None:
        stats.newest_us = max(stats.newest_us, int(batch.times_us.max()))
    stats.lengths = _add_padded(stats.lengths, np.bincount(lengths[distinct > 1]))


def sum_batches(
    batches: Iterable[pa.RecordBatch], shape: UnitShape, weights: PairWeights, num_items: int
) -> Iterator[pa.RecordBatch]:
    """Partial row sums (fixed point) of one partition; nothing for an empty one."""
    row_sums = sum_partition(batches, shape, weights, num_items)
    if row_sums.any():
        yield from _partial_rows(row_sums[None, :], _NO_LENGTHS, {})


def sum_partition(
    batches: Iterable[pa.RecordBatch], shape: UnitShape, weights: PairWeights, num_items: int
) -> NDArray[np.int64]:
    """Total fixed-point weight of each item's pairs in one partition's units [num_items]."""
    row_sums = np.zeros(num_items, np.int64)
    row = kernel.new_accumulator(num_items, weights.rule.mode, by_user=False)
    for batch in prepared_batches(batches, shape, num_items):
        kernel.add_row_sums(batch.units(weights), batch.distinct, weights.rule, row, row_sums)
    return row_sums


def merge_batches(batches: Iterable[pa.RecordBatch], num_items: int, num_values: int) -> Iterator[pa.RecordBatch]:
    """The sums of each part that came here, dense."""
    sums: dict[int, NDArray[np.int64]] = {}
    lengths, totals = _NO_LENGTHS, Totals()
    for batch in batches:
        for row in batch.to_pylist():
            span = shard_range(row["part"], num_parts(num_items), num_items)
            part = sums.setdefault(row["part"], np.zeros((num_values, len(span)), np.int64))
            items = np.frombuffer(row["items"], np.int32)
            part[:, items - span.start] += np.frombuffer(row["values"], np.int64).reshape(num_values, -1)
            lengths = _add_padded(lengths, np.frombuffer(row["lengths"], np.int64))
            totals = _join_totals(totals, json.loads(row["totals"]))
    for part_id in sorted(sums):
        is_first = part_id == 0
        yield _partial_row(
            part_id, b"", sums[part_id], lengths if is_first else _NO_LENGTHS, totals if is_first else {}
        )


def read_sums(merged: pa.Table, num_items: int, num_values: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Totals]:
    """(values [num_values, num_items], lengths, totals) from the merged rows of all parts; parts may be missing."""
    values = np.zeros((num_values, num_items), np.int64)
    lengths, totals = _NO_LENGTHS, Totals()
    for batch in merged.to_batches():
        for row in batch.to_pylist():
            span = shard_range(row["part"], num_parts(num_items), num_items)
            dense = np.frombuffer(row["values"], np.int64).reshape(num_values, -1)
            values[:, span.start : span.stop] += dense
            lengths = _add_padded(lengths, np.frombuffer(row["lengths"], np.int64))
            totals = _join_totals(totals, json.loads(row["totals"]))
    return values, lengths, totals


def num_values(shape: UnitShape) -> int:
    """Values an item in the partial rows of `count_batches`."""
    return 3 if shape.by_user else 2


def read_stats(merged: pa.Table, shape: UnitShape, num_items: int) -> UnitStats:
    """The stats of all units, from the merged rows of `count_batches`."""
    (unit_counts, costs, *user_counts), lengths, totals = read_sums(merged, num_items, num_values(shape))
    return UnitStats(unit_counts, costs, lengths, user_counts=user_counts[0] if user_counts else None, **totals)


def _partial_rows(values: NDArray[np.int64], lengths: NDArray[np.int64], totals: Totals) -> Iterator[pa.RecordBatch]:
    num_items = values.shape[1]
    for part in range(num_parts(num_items)):
        span = shard_range(part, num_parts(num_items), num_items)
        own = values[:, span.start : span.stop]
        filled = np.flatnonzero(own.any(axis=0))
        items = (filled + span.start).astype(np.int32)
        if part == 0 or len(items):
            is_first = part == 0
            yield _partial_row(
                part, items.tobytes(), own[:, filled], lengths if is_first else _NO_LENGTHS, totals if is_first else {}
            )


def _partial_row(
    part: int, items: bytes, values: NDArray[np.int64], lengths: NDArray[np.int64], totals: Totals
) -> pa.RecordBatch:
    row = {
        "part": part,
        "items": items,
        "values": np.ascontiguousarray(values).tobytes(),
        "lengths": lengths.tobytes(),
        "totals": json.dumps(totals),
    }
    return pa.RecordBatch.from_pylist([row], schema=_ARROW_SCHEMA)


def _join_totals(totals: Totals, more: Totals) -> Totals:
    joined = dict(totals)
    for name, value in more.items():
        if name not in joined:
            joined[name] = value
        elif name == "largest":
            joined[name] = _find_largest(joined[name] + value)
        else:
            joined[name] = max(joined[name], value) if name in _MAXIMA else joined[name] + value
    return joined


def _find_largest(lengths: list[int]) -> list[int]:
    return heapq.nlargest(NUM_SHOWN, lengths)


def _add_padded(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of two arrays, the shorter one filled up with zeros."""
    if len(a) < len(b):
        a, b = b, a
    total = a.astype(np.int64)
    total[: len(b)] += b
    return total
