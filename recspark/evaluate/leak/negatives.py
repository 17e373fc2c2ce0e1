"""`user_negatives`: what users were shown and passed over, of the train part alone, each an event that happened.

ann: shown i3 at 9:00, her first held-out event is of 10:00     events: ann i3 9:00 impression    ->  clean
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.leak.events import number_items, pick_users, read_sampled_users
from recspark.evaluate.leak.histories import TrainParts, is_sampled_user
from recspark.evaluate.leak.inputs import BATCH_ROWS, check_ids, check_inputs
from recspark.evaluate.leak.report import Check, Finding, iso_time
from recspark.evaluate.leak.split import Split, to_int64
from recspark.evaluate.ragged import BoolArray, Ragged
from recspark.lake.arrow import TableAt, stream_table

_INPUTS = {"events", "items", "users", "user_histories"}
_KEY = [c.USER_IDX, c.ITEM_IDX, c.TS]
_CLAIMED, _ALLOWED = "claimed", "allowed"
_Events = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]
"""(user_idx, item_idx, ts_us), a row an event."""


def check_negatives(tables: Mapping[str, TableAt], split: Split, train: TrainParts) -> list[Check]:
    """Checks `negatives.inputs`, `negatives.cut` and `negatives.events`."""
    made = tables["user_negatives"]
    sampled, of_cut = _check_cut(made, split, train)
    return [
        check_inputs("negatives.inputs", made, made.record.inputs, tables, _INPUTS),
        of_cut,
        _check_events(tables, split, sampled, len(train.user_events)),
    ]


def _check_cut(made: TableAt, split: Split, train: TrainParts) -> tuple[_Events, Check]:
    """(the events of sampled users, whether each event is before what is held out)."""
    promise = "each lies before what the split holds out, and none on a user's validation items by share"
    finding = Finding("negatives.cut", made, promise, "events")
    first_us, end_us = split.range_of(c.TRAIN)
    held_items = _held_items(split, train)
    parts: list[_Events] = [(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))]
    latest_us = first_us
    for batch in stream_table(made, [c.USER_IDX, c.ITEM_IDX, c.TS], BATCH_ROWS):
        user_idx, item_idx, ts_us = _flatten(batch)
        check_ids("user_negatives", c.USER_IDX, user_idx, len(train.user_events))
        check_ids("user_negatives", c.ITEM_IDX, item_idx, len(train.item_events))
        is_late = (ts_us < first_us) | (ts_us >= end_us) | (ts_us >= train.held_from_us[user_idx])
        is_late |= np.isin(_pair(user_idx, item_idx, train), held_items)
        finding.look(is_late, _naming(user_idx, item_idx, ts_us))
        latest_us = max(latest_us, int(ts_us.max(initial=first_us)))
        kept = is_sampled_user(user_idx, len(train.user_events))
        parts.append((user_idx[kept], item_idx[kept], ts_us[kept]))
    users, items, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    return (users, items, times), finding.check(latest_us=latest_us if latest_us > first_us else None)


def _held_items(split: Split, train: TrainParts) -> NDArray[np.int64]:
    """Pairs of user and item, of sampled users, that a rule about items holds out."""
    if split.valid_kind != "user_share":
        return np.empty(0, np.int64)
    is_valid = train.sample.parts == 1
    return _pair(train.sample.user_idx[is_valid], train.sample.item_idx[is_valid], train)


def _check_events(tables: Mapping[str, TableAt], split: Split, sampled: _Events, num_users: int) -> Check:
    """Whether the sampled users' events are events of the types asked for that the split lets into train."""
    made = tables["user_negatives"]
    types = pa.array(made.record.facts["event_types"], pa.string())
    user_idx, user_ids = read_sampled_users(tables["users"], num_users)
    parts = []
    for batch in stream_table(tables["events"], [c.USER_ID, c.ITEM_ID, c.TS, c.EVENT_TYPE, c.SPLIT], BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        parts.append(pick_users(rows.filter(pc.is_in(rows[c.EVENT_TYPE], types)), user_idx, user_ids))
    there = number_items(pa.concat_tables(parts), tables["items"])
    may_train, _ = split.allow(there, np.zeros(len(there), np.bool_))
    allowed = [there[c.USER_IDX].to_numpy(), there[c.ITEM_IDX].to_numpy(), to_int64(there[c.TS])]
    sums = pa.concat_tables([
        _to_counts(list(sampled), _CLAIMED, np.ones(len(sampled[0]), np.bool_)),
        _to_counts(allowed, _ALLOWED, may_train),
    ])  # fmt: skip
    sums = sums.group_by(_KEY).aggregate([(_CLAIMED, "sum"), (_ALLOWED, "sum")])
    claimed, may = (sums[f"{name}_sum"].to_numpy() for name in (_CLAIMED, _ALLOWED))
    seen = np.flatnonzero(claimed)
    promise = "each is one of the source's, of a type asked for, that the split lets into train"
    finding = Finding("negatives.events", made, promise, "events")
    named = [sums[name].to_numpy()[seen] for name in _KEY]
    finding.look(claimed[seen] > may[seen], _naming(*named))
    return finding.check(f"{len(np.unique(sampled[0])):,} users")


def _to_counts(key: list[NDArray[np.integer]], name: str, marks: BoolArray) -> pa.Table:
    """Rows of a key with one number to add up, the other 0."""
    types = (pa.int32(), pa.int32(), pa.int64())
    columns = {column: pa.array(values, t) for column, values, t in zip(_KEY, key, types, strict=True)}
    zeros = np.zeros(len(marks), np.int64)
    counts = {_CLAIMED: zeros, _ALLOWED: zeros, name: marks.astype(np.int64)}
    return pa.table(columns | {column: pa.array(values) for column, values in counts.items()})


def _flatten(batch: pa.RecordBatch) -> _Events:
    """A row an event."""
    events = Ragged.from_arrow(pa.chunked_array([batch[c.ITEM_IDX]]))
    users = batch[c.USER_IDX].to_numpy()[events.row_of_value]
    return users, events.values, pc.list_flatten(batch[c.TS]).to_numpy(zero_copy_only=False)


def _pair(user_idx: NDArray[np.int32], item_idx: NDArray[np.int32], train: TrainParts) -> NDArray[np.int64]:
    return user_idx.astype(np.int64) * len(train.item_events) + item_idx


def _naming(user_idx: NDArray[np.int32], item_idx: NDArray[np.int32], ts_us: NDArray[np.int64]) -> Callable[[int], str]:
    return lambda place: f"user {user_idx[place]}, item {item_idx[place]}, {iso_time(int(ts_us[place]))}"
