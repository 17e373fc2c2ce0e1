"""Whole users -> `user_histories`: one row a user, nothing collapsed, prefix lengths by split.

in   ann: train (item 3), train (item 5), valid (item 3), test (item 9)
out  user_idx 7, item_idx [3, 5, 3, 9], ts, weight and event_type as long, num_train 2, num_valid 1, num_context 0

Rows come sorted by (split rank, ts, event_id), with rank train < valid < context < test, so the train events are the
first ``num_train`` entries, the valid ones the next ``num_valid``, then the context; the rest is test.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from recspark.contracts import columns as c
from recspark.contracts.tables import USER_HISTORIES
from recspark.sessions.user_events import UserEvents

HISTORY_SCHEMA = pa.schema([*USER_HISTORIES.schema, pa.field(c.USER_ID, pa.string())])
"""The table's columns and ``user_id``, from which `users` is made."""


def build_histories(users: UserEvents) -> pa.RecordBatch:
    """One row of ``HISTORY_SCHEMA`` a user."""

    def lists(name: str, values: Any) -> pa.Array:
        list_type = HISTORY_SCHEMA.field(name).type
        return pa.ListArray.from_arrays(pa.array(users.offsets, pa.int32()), pa.array(values), type=list_type)

    def count(split: str) -> pa.Array:
        is_split = (users.split_rank == c.SPLIT_RANK[split]).astype(np.int32)
        return pa.array(np.add.reduceat(is_split, users.offsets[:-1]), pa.int32())

    columns = {
        c.USER_IDX: pa.array(users.user_idx),
        c.ITEM_IDX: lists(c.ITEM_IDX, users.item_idx),
        c.TS: lists(c.TS, users.ts_us),
        c.WEIGHT: lists(c.WEIGHT, users.weight),
        c.EVENT_TYPE: lists(c.EVENT_TYPE, users.event_type),
        c.NUM_TRAIN: count(c.TRAIN),
        c.NUM_VALID: count(c.VALID),
        c.NUM_CONTEXT: count(c.CONTEXT),
        c.USER_ID: users.user_ids,
    }
    return pa.RecordBatch.from_arrays([columns[n] for n in HISTORY_SCHEMA.names], schema=HISTORY_SCHEMA)
