"""`items` and `users`: what popularity, noise and vocabulary are made of, counted again from train histories."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.leak.histories import NEVER, TrainParts
from recspark.evaluate.leak.report import Check, Finding, iso_time
from recspark.evaluate.leak.split import Split, to_int64
from recspark.lake.arrow import TableAt, read_table


def check_items(items: TableAt, split: Split, train: TrainParts) -> list[Check]:
    """Checks `items.num_events` and `items.first_seen`."""
    rows = read_table(items, [c.ITEM_IDX, c.NUM_EVENTS, c.FIRST_SEEN])
    idx = rows[c.ITEM_IDX].to_numpy()
    counted = _compare_counts("items.num_events", items, idx, rows[c.NUM_EVENTS].to_numpy(), train.item_events)
    promise = "items with train events were seen by their first one, before the cut"
    finding = Finding("items.first_seen", items, promise, "items")
    first_us, earliest = _known_times(rows[c.FIRST_SEEN]), train.first_us[idx]
    latest_allowed = np.minimum(earliest, split.range_of(c.TRAIN)[1] - 1)
    is_bad = (earliest < NEVER) & (first_us > latest_allowed)
    finding.look(
        is_bad,
        lambda p: (
            f"item {idx[p]}: first seen {iso_time(int(first_us[p]))}, first train event {iso_time(int(earliest[p]))}"
        ),
    )
    return [counted, finding.check()]


def check_users(users: TableAt, train: TrainParts) -> Check:
    """Check `users.num_events`."""
    rows = read_table(users, [c.USER_IDX, c.NUM_EVENTS])
    idx, found = rows[c.USER_IDX].to_numpy(), rows[c.NUM_EVENTS].to_numpy()
    return _compare_counts("users.num_events", users, idx, found, train.user_events)


def _compare_counts(
    name: str, table: TableAt, idx: NDArray[np.int32], found: NDArray[np.int64], counted: NDArray[np.int64]
) -> Check:
    finding = Finding(name, table, "num_events counts the events of the train histories, no others", table.name)
    known = counted[idx]
    finding.look(found != known, lambda p: f"{table.name[:-1]} {idx[p]}: {found[p]:,}, counted {known[p]:,}")
    return finding.check(f"{int(counted.sum()):,} train events")


def _known_times(times: pa.ChunkedArray) -> NDArray[np.int64]:
    """Microseconds; items that were never seen have none and count as seen at the start."""
    return to_int64(times.cast(pa.int64()).fill_null(-NEVER))
