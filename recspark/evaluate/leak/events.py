"""`events` against what was learned: counts of all, and each train event of the sampled users by itself.

history of ann: train (i4, 10:00)    events: ann i4 10:00, before the cut    ->  there is one that the split lets in
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.evaluate.leak.histories import TrainParts, is_sampled_user
from recspark.evaluate.leak.report import Check, Finding, iso_time
from recspark.evaluate.leak.split import Split, to_int64
from recspark.evaluate.ragged import BoolArray
from recspark.lake.arrow import TableAt, read_ids, stream_table

_BATCH_ROWS = 200_000
_LEARNED, _COLUMNS = ("train", "valid"), [c.USER_ID, c.ITEM_ID, c.TS, c.EVENT_TYPE, c.SPLIT]
_IS_LAST = "_is_last"
_KEY = [c.USER_IDX, c.ITEM_IDX, c.TS]
_SUMS = ("train", "valid", "train_allowed", "valid_allowed", "allowed")


def check_events(tables: Mapping[str, TableAt], split: Split, train: TrainParts) -> list[Check]:
    """Checks `events.counts` and `histories.events`."""
    sessions = tables["sessions"]
    user_idx, user_ids = read_sampled_users(tables["users"], len(train.user_events))
    extra = [c.EVENT_ID] if split.kind == "leave_last_out" else []
    extra += [c.BASKET_ID] if _by_basket(sessions.record.config) else []
    parts, num_rows, num_possible = [], 0, 0
    for batch in stream_table(tables["events"], [*_COLUMNS, *extra], _BATCH_ROWS):
        rows = pa.Table.from_batches([batch])
        kept = rows.filter(pa.array(_is_kept(rows, sessions.record.config)))
        num_rows += len(rows)
        num_possible += int(np.logical_or(*split.allow(kept, np.zeros(len(kept), np.bool_))).sum())
        parts.append(pick_users(kept, user_idx, user_ids))
    counts = _compare_totals(tables["events"], sessions, split, train, num_rows, num_possible)
    rows = number_items(_mark_last(pa.concat_tables(parts), split), tables["items"])
    return [counts, _compare_rows(tables["user_histories"], rows, split, train)]


def _by_basket(config: Mapping[str, Any]) -> bool:
    return bool(config["sessions"]["group_by"] == "basket")


def _is_kept(rows: pa.Table, config: Mapping[str, Any]) -> BoolArray:
    """Events that pass the filters which look at an event alone."""
    clean, types = config["clean"], rows[c.EVENT_TYPE]
    is_kept = np.ones(len(rows), np.bool_)
    if clean["event_types"] is not None:
        is_kept &= pc.or_kleene(
            pc.is_in(types, pa.array(clean["event_types"], pa.string())), pc.is_null(types)
        ).to_numpy()
    weightless = [name for name, weight in clean["event_weights"].items() if weight == 0]
    is_kept &= ~pc.is_in(types, pa.array(weightless, pa.string())).to_numpy()
    return is_kept & rows[c.BASKET_ID].is_valid().to_numpy() if _by_basket(config) else is_kept


def read_sampled_users(users: TableAt, num_users: int) -> tuple[NDArray[np.int32], pa.Array]:
    """(user_idx, user_id) of the sampled ones."""
    idx, ids = [], []
    for batch in stream_table(users, [c.USER_IDX, c.USER_ID], _BATCH_ROWS):
        found = batch[c.USER_IDX].to_numpy()
        kept = is_sampled_user(found, num_users)
        idx.append(found[kept])
        ids.append(batch[c.USER_ID].cast(pa.string()).filter(pa.array(kept)))
    return np.concatenate(idx), pa.concat_arrays(ids)


def pick_users(rows: pa.Table, user_idx: NDArray[np.int32], user_ids: pa.Array) -> pa.Table:
    """The sampled users' events, with their ``user_idx``."""
    places = pc.index_in(rows[c.USER_ID], value_set=user_ids)
    picked = rows.filter(places.is_valid())
    own = user_idx[places.drop_null().to_numpy()]
    return picked.append_column(c.USER_IDX, pa.array(own, pa.int32()))


def number_items(rows: pa.Table, items: TableAt) -> pa.Table:
    """The events with their ``item_idx``; those of items that nothing was kept of have none, and go."""
    idx = pc.index_in(rows[c.ITEM_ID], value_set=read_ids(items, c.ITEM_IDX, c.ITEM_ID))
    return rows.append_column(c.ITEM_IDX, idx).filter(idx.is_valid())


def _mark_last(rows: pa.Table, split: Split) -> pa.Table:
    """The events with `_IS_LAST`: each user's last one of several, where the split asks for it."""
    if split.kind != "leave_last_out":
        return rows.append_column(_IS_LAST, pa.array(np.zeros(len(rows), np.bool_)))
    rows = rows.sort_by([(name, "ascending") for name in (c.USER_IDX, c.TS, c.EVENT_ID, c.ITEM_ID)])
    user_idx = rows[c.USER_IDX].to_numpy()
    differs = user_idx[1:] != user_idx[:-1]
    is_first, is_last = np.append(True, differs)[: len(rows)], np.append(differs, True)[: len(rows)]
    return rows.append_column(_IS_LAST, pa.array(is_last & ~is_first))


def _compare_totals(
    events: TableAt, sessions: TableAt, split: Split, train: TrainParts, num_rows: int, num_possible: int
) -> Check:
    """What was learned and looked at, against what there is to learn from."""
    finding = Finding("events.counts", events, "no more was learned from than the split lets in", "events")
    finding.look(np.zeros(num_rows, np.bool_), str)
    counts = sessions.record.counts
    if counts["events_in"] != num_rows:
        finding.fail(f"sessions counted {counts['events_in']:,} events, there are {num_rows:,}")
    if counts["kept"] != train.num_events:
        finding.fail(f"sessions kept {counts['kept']:,} events, histories hold {train.num_events:,}")
    is_exact = not counts["dropped"] and not counts["quarantined"] and split.kind != "leave_last_out"
    if train.num_learned > num_possible or (is_exact and train.num_learned != num_possible):
        finding.fail(f"{train.num_learned:,} train and valid events of {num_possible:,} that may be")
    return finding.check(f"{train.num_learned:,} train and valid events of {num_possible:,} that may be")


def _compare_rows(histories: TableAt, rows: pa.Table, split: Split, train: TrainParts) -> Check:
    may_train, may_valid = split.allow(rows, rows[_IS_LAST].to_numpy())
    allowed = _to_sums(
        [rows[c.USER_IDX], rows[c.ITEM_IDX], to_int64(rows[c.TS])],
        {"train_allowed": may_train, "valid_allowed": may_valid, "allowed": may_train | may_valid},
    )
    own = train.sample
    learned = {name: own.parts == part for part, name in enumerate(_LEARNED)}
    claimed = _to_sums([own.user_idx, own.item_idx, own.ts_us], learned)
    sums = pa.concat_tables([claimed, allowed]).group_by(_KEY).aggregate([(name, "sum") for name in _SUMS])
    number = {name: sums[f"{name}_sum"].to_numpy() for name in _SUMS}
    learned_from = number["train"] + number["valid"]
    is_bad = (number["train"] > number["train_allowed"]) | (number["valid"] > number["valid_allowed"])
    is_bad |= learned_from > number["allowed"]
    promise = "each train and valid event is one of the source's that the split lets into its part"
    finding = Finding("histories.events", histories, promise, "events")
    seen = np.flatnonzero(learned_from)
    user_idx, item_idx, ts_us = (sums[name].to_numpy()[seen] for name in _KEY)
    finding.look(is_bad[seen], lambda p: f"user {user_idx[p]}, item {item_idx[p]}, {iso_time(int(ts_us[p]))}")
    num_users = len(np.unique(user_idx))
    return finding.check(f"{num_users:,} of {int((train.user_events > 0).sum()):,} users")


def _to_sums(key: list[Any], marks: Mapping[str, BoolArray]) -> pa.Table:
    """Rows of a key with numbers to add up; absent ones are 0."""
    columns = [pa.chunked_array([pa.array(k, t)]) if isinstance(k, np.ndarray) else k.cast(t)
               for k, t in zip(key, (pa.int32(), pa.int32(), pa.int64()), strict=True)]  # fmt: skip
    zeros = np.zeros(len(key[0]), np.int64)
    columns += [
        pa.chunked_array([pa.array(marks[name].astype(np.int64) if name in marks else zeros)]) for name in _SUMS
    ]
    return pa.table(dict(zip([*_KEY, *_SUMS], columns, strict=True)))
