"""Sorted events as Arrow batches -> groups of whole users as numpy arrays, each user with its dense ``user_idx``.

in   batches of one Spark partition, sorted by (user_id, split rank, ts, event_id); a user may span many batches
out  `UserEvents`: user_ids ['ann', 'bob'], user_idx [7, 8], offsets [0, 3, 5], and five rows in flat arrays
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c

PART = "_part"
"""Spark partition of the row; partitions are ranges of ``user_id`` in order."""
RANK = "_split_rank"
"""`contracts.columns.SPLIT_RANK` of the event's split."""
TS_US = "_ts_us"
"""Microseconds since the epoch, UTC."""
BASKET = "_basket"
"""``basket_id``, only there when sessions are cut by it."""


@dataclass(frozen=True)
class UserEvents:
    """All events of some consecutive users, sorted by (user, split rank, ts, event_id).

    ``offsets`` has one more entry than there are users: user u owns rows offsets[u] .. offsets[u + 1] - 1.
    """

    user_ids: Any
    user_idx: NDArray[np.int32]
    offsets: NDArray[np.int64]
    split_rank: NDArray[np.int8]
    ts_us: NDArray[np.int64]
    item_idx: NDArray[np.int32]
    weight: NDArray[np.float32]
    event_type: NDArray[np.int8]
    basket: NDArray[np.int32] | None

    @property
    def row_user(self) -> NDArray[np.int64]:
        """For each row the position of its user in this group."""
        return np.repeat(np.arange(len(self.user_idx)), np.diff(self.offsets))


def read_users(batches: Iterator[pa.RecordBatch], first_users: Mapping[int, int]) -> Iterator[UserEvents]:
    """Groups of whole users of one Spark partition.

    ``first_users`` maps a partition to the number of users in the partitions before it, so that ``user_idx`` counts
    all users in the order of ``user_id``. A user of many batches is joined once, so the cost stays linear.
    """
    next_user: int | None = None
    for rows in _whole_users(batches):
        if next_user is None:
            next_user = first_users[rows.column(PART)[0].as_py()]
        users = _to_user_events(rows, next_user)
        next_user += len(users.user_idx)
        yield users


def _whole_users(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, cut between batches only where a user ends."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows == 0:
            continue
        ids = batch.column(c.USER_ID)
        last_start = pc.index(ids, ids[-1]).as_py()
        if last_start == 0 and pending and pending[0].column(c.USER_ID)[0] == ids[0]:
            pending.append(batch)
            continue
        yield from _join([*pending, batch.slice(0, last_start)])
        pending = [batch.slice(last_start)]
    yield from _join(pending)


def _join(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """One batch of all rows; none where there are no rows."""
    if not sum(b.num_rows for b in batches):
        return []
    joined: list[pa.RecordBatch] = pa.Table.from_batches(batches).combine_chunks().to_batches()
    assert len(joined) == 1, "combined rows are one chunk"
    return joined


def _to_user_events(rows: pa.RecordBatch, first_user: int) -> UserEvents:
    runs = pc.run_end_encode(rows.column(c.USER_ID))
    offsets = np.concatenate([[0], runs.run_ends.to_numpy()]).astype(np.int64)
    num_users = len(offsets) - 1
    has_baskets = BASKET in rows.schema.names

    def values(name: str, dtype: Any) -> NDArray[Any]:
        found: NDArray[Any] = rows.column(name).to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        return found

    return UserEvents(
        user_ids=runs.values,
        user_idx=np.arange(first_user, first_user + num_users, dtype=np.int32),
        offsets=offsets,
        split_rank=values(RANK, np.int8),
        ts_us=values(TS_US, np.int64),
        item_idx=values(c.ITEM_IDX, np.int32),
        weight=values(c.WEIGHT, np.float32),
        event_type=values(c.EVENT_TYPE, np.int8),
        basket=pc.dictionary_encode(rows.column(BASKET)).indices.to_numpy() if has_baskets else None,
    )
