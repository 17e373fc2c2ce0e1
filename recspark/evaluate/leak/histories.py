"""`user_histories`, each user's parts in one row: on their side of the cut, and apart from each other.

item_idx [3, 5, 3, 9], num_train 2, num_valid 1   ->   train events of items [.., 3: 1, .., 5: 1], of the user 2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.history_context import NO_CONTEXT, HistoryContext
from recspark.evaluate.leak.inputs import BATCH_ROWS, check_ids, is_sampled, item_counts
from recspark.evaluate.leak.report import Check, Finding, iso_time, not_applicable
from recspark.evaluate.leak.split import Split
from recspark.evaluate.ragged import BoolArray, IntArray, Ragged
from recspark.lake.arrow import TableAt, stream_table

MAX_USERS = 10_000
"""Users whose events are compared one by one."""
NEVER = np.iinfo(np.int64).max
_COLUMNS = [c.USER_IDX, c.ITEM_IDX, c.TS, c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT]
_PARTS = (c.TRAIN, c.VALID, c.CONTEXT, c.TEST)
"""In the order of a row."""


@dataclass(frozen=True)
class HistoryEvents:
    """Train and validation events of the sampled users, a row each: ``parts`` is 0 for train, 1 for validation.

    ``context``: what the model's user tower reads of them beside items.
    """

    user_idx: NDArray[np.int32]
    item_idx: NDArray[np.int32]
    ts_us: NDArray[np.int64]
    parts: NDArray[np.int8]
    context: HistoryContext = NO_CONTEXT


@dataclass(frozen=True)
class TrainParts:
    """What the train parts of all histories come to: the one source of what may be known.

    ``item_events`` int64 [V] and ``user_events`` int64 [U] count, ``first_us`` int64 [V] is each item's earliest train
    event (`NEVER` without one), ``held_from_us`` int64 [U] when what the split holds out by a user's own order begins
    (`NEVER` where it goes by no order), ``num_learned`` the train and validation events of all, ``num_events`` of all
    parts.
    """

    item_events: NDArray[np.int64]
    user_events: NDArray[np.int64]
    first_us: NDArray[np.int64]
    held_from_us: NDArray[np.int64]
    num_learned: int
    num_events: int
    sample: HistoryEvents


@dataclass(frozen=True)
class _Batch:
    """Some users' histories: ``parts`` [E] is each event's part, as a place in `_PARTS`."""

    user_idx: NDArray[np.int32]
    events: Ragged
    ts_us: NDArray[np.int64]
    parts: NDArray[np.int8]
    context: HistoryContext


def is_sampled_user(user_idx: IntArray, num_users: int) -> BoolArray:
    """Whether a user's events are compared one by one."""
    return is_sampled(user_idx, num_users, MAX_USERS)


class _Scan:
    """Sums over batches of histories."""

    def __init__(self, num_items: int, num_users: int, split: Split) -> None:
        self.item_events, self.user_events = np.zeros(num_items, np.int64), np.zeros(num_users, np.int64)
        self.first_us, self.held_from_us = (np.full(n, NEVER, np.int64) for n in (num_items, num_users))
        held = {c.TEST: split.kind == "leave_last_out", c.VALID: split.valid_kind == "last_k"}
        self._held_parts = [place for place, part in enumerate(_PARTS) if held.get(part)]
        self.num_learned = self.num_events = 0
        self.latest_us = -NEVER
        self._samples: list[HistoryEvents] = []

    def add(self, batch: _Batch) -> None:
        """Counts what the train parts hold, and keeps the events of sampled users."""
        is_train = batch.parts == 0
        items, ts_us, users = batch.events.values[is_train], batch.ts_us[is_train], batch.user_idx
        check_ids("user_histories", c.USER_IDX, users, len(self.user_events))
        self.item_events += item_counts("user_histories", items, len(self.item_events))
        self.user_events[users] += np.bincount(batch.events.row_of_value[is_train], minlength=len(users))
        np.minimum.at(self.first_us, items, ts_us)
        is_held = np.isin(batch.parts, self._held_parts)
        np.minimum.at(self.held_from_us, users[batch.events.row_of_value[is_held]], batch.ts_us[is_held])
        self.latest_us = max(self.latest_us, int(ts_us.max(initial=-NEVER)))
        self.num_learned += int((batch.parts <= 1).sum())
        self.num_events += len(batch.parts)
        rows = batch.events.row_of_value
        kept = is_sampled_user(users, len(self.user_events))[rows] & (batch.parts <= 1)
        items, parts, context = batch.events.values[kept], batch.parts[kept], batch.context.pick(kept)
        self._samples.append(HistoryEvents(users[rows][kept], items, batch.ts_us[kept], parts, context))

    def finish(self) -> TrainParts:
        """All batches together."""
        names = ("user_idx", "item_idx", "ts_us", "parts")
        empty: list[Any] = [np.empty(0, np.int32)]
        sample = {name: np.concatenate([getattr(s, name) for s in self._samples] or empty) for name in names}
        context = HistoryContext.join([s.context for s in self._samples])
        return TrainParts(
            self.item_events, self.user_events, self.first_us, self.held_from_us, self.num_learned, self.num_events,
            HistoryEvents(**sample, context=context),
        )  # fmt: skip


def scan_histories(
    histories: TableAt, split: Split, num_items: int, num_users: int, event_columns: Sequence[str] = ()
) -> tuple[TrainParts, list[Check]]:
    """(what the train parts come to, checks `histories.cut` and `histories.valid`).

    ``event_columns``: what is to be known of the sampled users' events beside items.
    """
    cut = Finding("histories.cut", histories, "each event lies on its part's side of the cut", "events")
    promise = _promise_of_valid(split)
    apart = Finding("histories.valid", histories, promise or "", "users")
    scan = _Scan(num_items, num_users, split)
    for rows in stream_table(histories, list(dict.fromkeys([*_COLUMNS, *event_columns])), BATCH_ROWS):
        batch = _to_batch(pa.Table.from_batches([rows]), event_columns)
        scan.add(batch)
        _look_at_times(batch, split, cut)
        apart.look(_is_mixed(batch, split), lambda row, users=batch.user_idx: f"user {users[row]}")  # type: ignore[misc]
    found = scan.latest_us > -NEVER
    note = f"train events until {iso_time(scan.latest_us)}" if found else "no train event"
    of_valid = (
        apart.check() if promise else not_applicable("histories.valid", "events are told apart one by one, above")
    )
    return scan.finish(), [cut.check(note, scan.latest_us if found else None), of_valid]


def _to_batch(rows: pa.Table, event_columns: Sequence[str]) -> _Batch:
    events = Ragged.from_arrow(rows[c.ITEM_IDX])
    ts_us = pc.list_flatten(rows[c.TS]).to_numpy()
    context = HistoryContext.from_rows(rows, event_columns)
    return _Batch(rows[c.USER_IDX].to_numpy(), events, ts_us, _parts_of(rows, events), context)


def _look_at_times(batch: _Batch, split: Split, finding: Finding) -> None:
    ts_us, parts, users = batch.ts_us, batch.parts, batch.user_idx[batch.events.row_of_value]
    first, end = np.array([split.range_of(name) for name in _PARTS], np.int64)[parts].T
    is_outside = (ts_us < first) | (ts_us >= end)
    finding.look(is_outside, lambda p: f"user {users[p]}: {_PARTS[parts[p]]} event of {iso_time(int(ts_us[p]))}")


def _parts_of(rows: pa.Table, events: Ragged) -> NDArray[np.int8]:
    """The part of each event, as a place in `_PARTS`: counts are prefix lengths."""
    ends = np.cumsum([rows[name].to_numpy() for name in (c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT)], axis=0)
    place = events.place_of_value
    return sum((place >= np.repeat(end, events.lengths)).astype(np.int8) for end in ends)  # type: ignore[return-value]


def _promise_of_valid(split: Split) -> str | None:
    """What holds of a whole history; None where the rule is about each event by itself."""
    if split.kind == "given" or split.valid_kind in ("time", "given"):
        return None
    return {
        None: "no event is in a validation slice",
        "user_share": "no user has an item in train and in validation",
        "last_k": "no train event of a user is later than a validation event",
    }[split.valid_kind]


def _is_mixed(batch: _Batch, split: Split) -> BoolArray:
    """The users whose train and validation parts are not apart."""
    events, ts_us, rows = batch.events, batch.ts_us, batch.events.row_of_value
    is_bad = np.zeros(len(events), np.bool_)
    train, valid = batch.parts == 0, batch.parts == 1
    if split.valid_kind is None:
        is_bad[rows[valid]] = True
    elif split.valid_kind == "user_share":
        kept, held_out = events.where(train), events.where(valid)
        is_bad[held_out.row_of_value[kept.contains(held_out.row_of_value, held_out.values)]] = True
    elif split.valid_kind == "last_k":
        latest = np.full(len(events), -NEVER, np.int64)
        np.maximum.at(latest, rows[train], ts_us[train])
        is_bad[rows[valid][ts_us[valid] < latest[rows[valid]]]] = True
    return is_bad
