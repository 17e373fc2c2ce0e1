"""`sessions`: each on its side of the cut from first event to last, and train ones made of train events only."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.leak.histories import TrainParts, is_sampled_user
from recspark.evaluate.leak.inputs import BATCH_ROWS, check_ids, item_counts
from recspark.evaluate.leak.report import Check, Finding, iso_time
from recspark.evaluate.leak.split import Split, to_int64
from recspark.evaluate.ragged import BoolArray, Ragged
from recspark.lake.arrow import TableAt, stream_table

_COLUMNS = [c.USER_IDX, c.START_TS, c.END_TS, c.ITEM_IDX, c.OFFSET_SECONDS, c.SPLIT]
_SECOND_US = 1_000_000
_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Distinct (user, item) keys and how often each stands there."""


def check_sessions(sessions: TableAt, split: Split, train: TrainParts) -> list[Check]:
    """Checks `sessions.cut`, `sessions.items`, `sessions.users` and `sessions.events`."""
    cut = Finding("sessions.cut", sessions, "each session lies on its side of the cut", "sessions")
    items, users = np.zeros_like(train.item_events), np.zeros_like(train.user_events)
    sampled, latest_us = [], -1
    for batch in stream_table(sessions, _COLUMNS, BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        last_us = _look_at_times(rows, split, cut)
        is_train = pc.equal(rows[c.SPLIT], c.TRAIN).to_numpy()
        latest_us = max(latest_us, int(last_us[is_train].max(initial=-1)))
        of_train = rows.filter(pa.array(is_train))
        events, user_idx = Ragged.from_arrow(of_train[c.ITEM_IDX]), of_train[c.USER_IDX].to_numpy()
        items += item_counts("sessions", events.values, len(items))
        check_ids("sessions", c.USER_IDX, user_idx, len(users))
        np.add.at(users, user_idx, events.lengths)
        is_kept = is_sampled_user(user_idx, len(users))[events.row_of_value]
        sampled.append(_key(user_idx[events.row_of_value][is_kept], events.values[is_kept], len(items)))
    note = f"train ones until {iso_time(latest_us)}" if latest_us >= 0 else "no train session"
    is_exact = not sessions.record.config["sessions"]["collapse_repeats"]
    return [
        cut.check(note, latest_us if latest_us >= 0 else None),
        _compare("sessions.items", sessions, "items", items, train.item_events, is_exact),
        _compare("sessions.users", sessions, "users", users, train.user_events, is_exact),
        _compare_pairs(sessions, np.concatenate(sampled or [np.empty(0, np.int64)]), train),
    ]


def _look_at_times(rows: pa.Table, split: Split, finding: Finding) -> NDArray[np.int64]:
    """Looks at the sessions of a batch; the time of the last event of each."""
    start_us, end_us = to_int64(rows[c.START_TS]), to_int64(rows[c.END_TS])
    offsets = Ragged.from_arrow(rows[c.OFFSET_SECONDS])
    latest = np.zeros(len(offsets), np.int64)
    np.maximum.at(latest, offsets.row_of_value, offsets.values)
    last_us: NDArray[np.int64] = np.maximum(start_us + latest * _SECOND_US, end_us)
    part = pc.index_in(rows[c.SPLIT], value_set=pa.array(c.SPLITS)).to_numpy()
    first, end = np.array([split.range_of(name) for name in c.SPLITS], np.int64)[part].T
    user_idx = rows[c.USER_IDX].to_numpy()
    finding.look(
        (start_us < first) | (last_us >= end),
        lambda p: (
            f"user {user_idx[p]}: {c.SPLITS[part[p]]} from {iso_time(int(start_us[p]))} to {iso_time(int(last_us[p]))}"
        ),
    )
    return last_us


def _compare(
    name: str, sessions: TableAt, unit: str, found: NDArray[np.int64], known: NDArray[np.int64], is_exact: bool
) -> Check:
    """Train events in sessions against those in histories, an item or user each; repeats may be collapsed."""
    same = "as many" if is_exact else "no more, and none only if none,"
    finding = Finding(name, sessions, f"train sessions hold {same} events of each as the train histories", unit)
    is_bad = (found != known) if is_exact else (found > known) | ((found == 0) != (known == 0))
    finding.look(is_bad, lambda p: f"{unit[:-1]} {p}: {found[p]:,} events in sessions, {known[p]:,} in histories")
    return finding.check(f"{int(found.sum()):,} events in sessions, {int(known.sum()):,} in histories")


def _compare_pairs(sessions: TableAt, keys: NDArray[np.int64], train: TrainParts) -> Check:
    """Of the sampled users: each item of a train session is one of the user's train events."""
    num_items = len(train.item_events)
    finding = Finding("sessions.events", sessions, "each event of a train session is a train event of its user",
                      "pairs of user and item")  # fmt: skip
    is_train = train.sample.parts == 0
    own = _key(train.sample.user_idx[is_train], train.sample.item_idx[is_train], num_items)
    (pairs, found), (known, counts) = _count(keys), _count(own)
    places = np.minimum(np.searchsorted(known, pairs), max(len(known) - 1, 0))
    there = np.where(known[places] == pairs, counts[places], 0) if len(known) else np.zeros(len(pairs), np.int64)
    is_bad: BoolArray = found > there
    finding.look(
        is_bad,
        lambda p: (
            f"user {pairs[p] // num_items}, item {pairs[p] % num_items}: {found[p]} in sessions, "
            f"{there[p]} in the train history"
        ),
    )
    return finding.check()


def _key(user_idx: NDArray[np.int32], item_idx: NDArray[np.int32], num_items: int) -> NDArray[np.int64]:
    return user_idx.astype(np.int64) * num_items + item_idx


def _count(keys: NDArray[np.int64]) -> _Pairs:
    found, counts = np.unique(keys, return_counts=True)
    return found, counts.astype(np.int64)
