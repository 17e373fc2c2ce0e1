"""The train part of all users' histories, as baselines learn from it.

user_histories row   item_idx [3, 5, 3, 8], num_train 3   ->   train items [3, 5, 3], matrix row 1 at columns 3, 5
"""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.ragged import Ragged
from recspark.lake.arrow import TableAt, read_table

MICROSECONDS_A_DAY = 86_400_000_000


def read_train_items(user_histories: TableAt) -> Ragged:
    """Each user's train items in order, repeats kept; one row a row of the table."""
    rows = read_table(user_histories, [c.ITEM_IDX, c.NUM_TRAIN])
    events = Ragged.from_arrow(rows[c.ITEM_IDX])
    return events.where(_is_train(events, rows[c.NUM_TRAIN].to_numpy()))


def read_train_events(user_histories: TableAt) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """(item, days before the newest train event) of every train event of all users."""
    rows = read_table(user_histories, [c.ITEM_IDX, c.TS, c.NUM_TRAIN])
    events = Ragged.from_arrow(rows[c.ITEM_IDX])
    is_train = _is_train(events, rows[c.NUM_TRAIN].to_numpy())
    ts = rows[c.TS].combine_chunks().flatten().to_numpy()[is_train]
    return events.values[is_train], (ts.max(initial=0) - ts) / MICROSECONDS_A_DAY


def build_user_matrix(train: Ragged, num_items: int) -> sp.csr_array:
    """Users x items [U, N]: 1.0 where a user's train part holds the item, however often."""
    distinct = train.distinct()
    ones = np.ones(len(distinct.values), dtype=np.float64)
    return sp.csr_array((ones, distinct.values, distinct.offsets), shape=(len(distinct), num_items))


def _is_train(events: Ragged, num_train: NDArray[np.int32]) -> NDArray[np.bool_]:
    return np.asarray(events.place_of_value < np.repeat(num_train, events.lengths))
