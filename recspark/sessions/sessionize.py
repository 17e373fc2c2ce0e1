"""Whole users -> sessions: runs of one user's events of one split, cut at pauses, baskets, lengths and spans.

in   ann: 10:00 item 3, 10:01 item 3, 10:05 item 8, 12:00 item 3     (train, gap_seconds 1800)
out  items [3, 8], offsets [0, 300], 3 events;  items [3], offsets [0], 1 event

Events come sorted by (split rank, ts, event_id): every split is cut on its own, so held-out events neither bridge nor
break the sessions that are learned from. Where splits follow each other in time this is the cut at the split's border.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.tables import SESSIONS
from recspark.sessions.user_events import UserEvents

if TYPE_CHECKING:  # workers import this module, and need no pydantic
    from recspark.config.schema import SessionsConfig

START_US = "_start_us"
END_US = "_end_us"
ORDINAL = "_ordinal"
"""Place of a session among those of its user and split that start at the same time."""
NUM_EVENTS = "_num_events"
"""Events of a session before repeats were collapsed."""

_ARRAYS = (c.ITEM_IDX, c.OFFSET_SECONDS, c.WEIGHT, c.EVENT_TYPE)
SESSION_SCHEMA = pa.schema(
    [
        pa.field(c.USER_ID, pa.string()),
        pa.field(c.USER_IDX, pa.int32()),
        pa.field(c.SPLIT, pa.string()),
        pa.field(START_US, pa.int64()),
        pa.field(END_US, pa.int64()),
        pa.field(ORDINAL, pa.int32()),
        pa.field(NUM_EVENTS, pa.int32()),
        *(SESSIONS.schema.field(name) for name in _ARRAYS),
    ]
)

_SPLIT_NAMES = np.array(sorted(c.SPLITS, key=c.SPLIT_RANK.__getitem__), dtype=object)
_MAX_INT32 = np.int64(2**31 - 1)


@dataclass(frozen=True)
class SessionRules:
    """Where sessions are cut; None means that a rule does not apply."""

    by_basket: bool
    gap_us: int | None
    max_span_us: int | None
    max_items: int | None
    collapse_repeats: bool


def plan_rules(config: "SessionsConfig", order: str) -> SessionRules:
    """The rules that apply to a source ordered by ``time``, ``position`` or not at all (``none``)."""
    by_gap = config.group_by == "gap" and order == "time"
    return SessionRules(
        by_basket=config.group_by == "basket",
        gap_us=config.gap_seconds * 1_000_000 if by_gap else None,
        max_span_us=config.max_span_seconds * 1_000_000 if by_gap else None,
        max_items=config.max_items if order != "none" else None,
        collapse_repeats=config.collapse_repeats,
    )


def build_sessions_of(users: UserEvents, rules: SessionRules) -> pa.RecordBatch:
    """One row of ``SESSION_SCHEMA`` a session, in the order (user, split rank, start)."""
    row_user = users.row_user
    rows = _order_by_basket(users, row_user) if rules.by_basket else np.arange(len(row_user))
    ts_us, items, row_user = users.ts_us[rows], users.item_idx[rows], row_user[rows]
    starts = _find_starts(users, rules, rows, row_user, ts_us)
    ends = np.append(starts[1:], len(rows))
    is_kept = _find_kept(items, starts) if rules.collapse_repeats else np.ones(len(rows), bool)
    kept = np.flatnonzero(is_kept)
    seconds = (ts_us - np.repeat(ts_us[starts], ends - starts)) // 1_000_000
    start_user, start_rank = row_user[starts], users.split_rank[rows[starts]]
    offsets = pa.array(np.append(np.searchsorted(kept, starts), len(kept)), pa.int32())
    columns = {
        c.USER_ID: users.user_ids.take(pa.array(start_user)),
        c.USER_IDX: pa.array(users.user_idx[start_user]),
        c.SPLIT: pa.array(_SPLIT_NAMES[start_rank], pa.string()),
        START_US: pa.array(ts_us[starts]),
        END_US: pa.array(ts_us[ends - 1]),
        ORDINAL: pa.array(_count_ties(start_user, start_rank, ts_us[starts]), pa.int32()),
        NUM_EVENTS: pa.array(ends - starts, pa.int32()),
        c.ITEM_IDX: _lists(c.ITEM_IDX, offsets, items[kept]),
        # `group_by: user` may span more seconds than an int holds (68 years).
        c.OFFSET_SECONDS: _lists(c.OFFSET_SECONDS, offsets, np.minimum(seconds[kept], _MAX_INT32).astype(np.int32)),
        c.WEIGHT: _lists(c.WEIGHT, offsets, _sum_runs(users.weight[rows], kept)),
        c.EVENT_TYPE: _lists(c.EVENT_TYPE, offsets, users.event_type[rows][kept]),
    }
    return pa.RecordBatch.from_arrays([columns[n] for n in SESSION_SCHEMA.names], schema=SESSION_SCHEMA)


def _order_by_basket(users: UserEvents, row_user: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows with each (user, split, basket) together, baskets in the order of their first events."""
    assert users.basket is not None
    order = np.lexsort((users.basket, users.split_rank, row_user))
    is_first = _differs(row_user[order], users.split_rank[order], users.basket[order])
    group = np.cumsum(is_first) - 1
    first_row = np.empty(len(order), np.int64)
    first_row[order] = order[is_first][group]  # lexsort is stable: a group's first row is its earliest event
    return np.argsort(first_row, kind="stable")


def _find_starts(
    users: UserEvents,
    rules: SessionRules,
    rows: NDArray[np.int64],
    row_user: NDArray[np.int64],
    ts_us: NDArray[np.int64],
) -> NDArray[np.int64]:
    """First row of each session."""
    is_start = _differs(row_user, users.split_rank[rows])
    if rules.by_basket:
        assert users.basket is not None
        is_start |= _differs(users.basket[rows])
    if rules.gap_us is not None:
        is_start[1:] |= np.diff(ts_us) > rules.gap_us
    return cut_long_sessions(np.flatnonzero(is_start), ts_us, rules.max_items, rules.max_span_us)


def cut_long_sessions(
    starts: NDArray[np.int64], ts_us: NDArray[np.int64], max_items: int | None, max_span_us: int | None
) -> NDArray[np.int64]:
    """The given starts and one more wherever a session, counted from its own start, gets too long or too wide.

    Linear in the number of rows: only sessions that break a rule are walked, one binary search a cut.
    """
    ends = np.append(starts[1:], len(ts_us))
    max_items = len(ts_us) if max_items is None else max_items
    is_long = ends - starts > max_items
    if max_span_us is not None:
        is_long |= ts_us[ends - 1] - ts_us[starts] > max_span_us
    cuts: list[int] = []
    for start, end in zip(starts[is_long].tolist(), ends[is_long].tolist(), strict=True):
        at = start
        while (at := _next_cut(ts_us, at, end, max_items, max_span_us)) < end:
            cuts.append(at)
    return np.sort(np.concatenate([starts, np.array(cuts, np.int64)]))


def _next_cut(ts_us: NDArray[np.int64], start: int, end: int, max_items: int, max_span_us: int | None) -> int:
    end = min(end, start + max_items)
    if max_span_us is None:
        return end
    return start + int(np.searchsorted(ts_us[start:end], ts_us[start] + max_span_us, side="right"))


def _find_kept(items: NDArray[np.int32], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows that differ in item from the row before, or start a session."""
    is_kept = _differs(items)
    is_kept[starts] = True
    return is_kept


def _differs(*keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows that differ from the row before in any key; the first row does."""
    is_new = np.zeros(len(keys[0]), bool)
    is_new[:1] = True
    for key in keys:
        is_new[1:] |= key[1:] != key[:-1]
    return is_new


def _count_ties(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """For each row its place in the run of equal keys it stands in."""
    places = np.arange(len(keys[0]))
    is_new = _differs(*keys)
    first: NDArray[np.int64] = places[is_new][np.cumsum(is_new) - 1]
    return places - first


def _sum_runs(weight: NDArray[np.float32], kept: NDArray[np.int64]) -> NDArray[np.float32]:
    """Weights of the kept rows plus those of the collapsed rows after each."""
    sums: NDArray[np.float64] = np.add.reduceat(weight.astype(np.float64), kept)
    return sums.astype(np.float32)


def _lists(name: str, offsets: pa.Array, values: NDArray[Any]) -> pa.Array:
    return pa.ListArray.from_arrays(offsets, pa.array(values), type=SESSION_SCHEMA.field(name).type)
