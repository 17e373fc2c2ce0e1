"""Arrow batches of units -> prepared arrays for the kernels. Runs in Spark's Python workers; needs no Spark.

A batch has ``item_idx list<int32>`` and, where the config uses them, ``weight list<float>``, ``time_us int64``,
``user_idx int32`` (sorted), ``cut_events int64`` and ``cut_users int64``: one row is one train session, or one user's
train history, in order of time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.graph import kernel
from recspark.graph.pairs import PairWeights, UnitShape

TIME_US = "time_us"
CUT_EVENTS = "cut_events"
"""Events of a session that the cap on its user's events has cut."""
CUT_USERS = "cut_users"
"""1 in one session of each user that the cap has cut."""
BATCH_EVENTS = 500_000
"""Events that small Arrow batches are joined to before a kernel call."""
NO_WEIGHTS = pa.array([], pa.float32()).to_numpy()
"""Read-only, as Arrow's arrays are: the kernel is compiled for one kind."""
NO_USERS = np.empty(0, np.int32)


@dataclass(frozen=True)
class PreparedBatch:
    """Units cut to what counts, beside what was there before."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    item_weights: NDArray[np.float32]
    distinct: NDArray[np.int32]
    """Distinct items of each unit."""
    lengths_before: NDArray[np.int64]
    """Events of each unit before the cap."""
    times_us: NDArray[np.int64] | None
    users: NDArray[np.int32]
    num_bad_weights: int
    cut_events: int
    cut_users: int

    def units(self, weights: PairWeights) -> kernel.Units:
        """The units as the kernels take them."""
        unit_weights = weights.of_units(self.distinct, self.times_us)
        return kernel.Units(self.indptr, self.items, self.item_weights, unit_weights, self.users)


def prepared_batches(batches: Iterable[pa.RecordBatch], shape: UnitShape, num_items: int) -> Iterator[PreparedBatch]:
    """Joined and prepared batches, none of them empty."""
    slots = np.full(num_items, -1, np.int32)
    for batch in join_batches(batches):
        offsets, items = flatten(batch.column(c.ITEM_IDX))
        assert not len(items) or (items.min() >= 0 and items.max() < num_items), "item_idx outside the vocabulary"
        event_weights = NO_WEIGHTS
        if shape.use_event_weights:
            event_weights = flatten(batch.column(c.WEIGHT))[1]
            assert len(event_weights) == len(items), "weights and items of the units differ in number"
        indptr, items, item_weights, distinct = kernel.prepare_units(
            offsets, items, event_weights, shape.use_event_weights, shape.ordered, shape.max_items, slots
        )
        times_us = batch.column(TIME_US).to_numpy() if shape.use_times else None
        # Not a number compares false; float32 overflow would break every sum it enters.
        num_bad_weights = len(event_weights) - int(np.count_nonzero((event_weights >= 0) & (event_weights < np.inf)))
        users = batch.column(c.USER_IDX).to_numpy().copy() if shape.by_user else NO_USERS
        cut = [int(batch.column(n).to_numpy().sum()) if shape.has_user_cap else 0 for n in (CUT_EVENTS, CUT_USERS)]
        yield PreparedBatch(
            indptr, items, item_weights, distinct, np.diff(offsets), times_us, users, num_bad_weights, *cut
        )


def join_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Neighbouring batches joined to about `BATCH_EVENTS` events; kernels are called seldom, on much."""
    waiting: list[pa.RecordBatch] = []
    num_events = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        offsets = batch.column(c.ITEM_IDX).offsets
        num_events += offsets[len(offsets) - 1].as_py() - offsets[0].as_py()
        if num_events >= BATCH_EVENTS:
            yield _concatenate(waiting)
            waiting, num_events = [], 0
    if waiting:
        yield _concatenate(waiting)


def flatten(lists: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """(offsets from 0, values) of a list column, slices honoured."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    values = lists.values.to_numpy()[offsets[0] : offsets[-1]]
    return offsets - offsets[0], values


def _concatenate(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
