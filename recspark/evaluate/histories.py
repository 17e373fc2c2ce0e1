"""Who is scored and on what: history, relevant and masked items of each user, and every denominator.

user_histories row   item_idx [3, 5, 3, 8, 9, 5]   num_train 3, num_valid 1, num_context 0
scoring test         history [3, 5, 3, 8], masked {3, 5, 8}, relevant {9}     (5 was seen)
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.shards import hash_ids
from recspark.errors import DataError
from recspark.evaluate.history_context import NO_CONTEXT, HistoryContext
from recspark.evaluate.ragged import BoolArray, IntArray, Ragged
from recspark.evaluate.time_features import NEVER

ALL, WARM, COLD = SEGMENTS = ("all", "warm", "cold")
"""warm: users with train events, cold: those whose history is validation or context only."""

TRAIN_ONLY, TRAIN_AND_VALID = "train", "train+valid"


@dataclass(frozen=True)
class CaseSpec:
    """Which users count, and what of theirs is history or relevant."""

    split: str = c.TEST
    """`test` or `valid`: whose items are relevant."""
    history: str | None = None
    """`train` or `train+valid`; the latter when scoring test, else `train`. Context is always added."""
    mask_seen: bool = True
    """Leave history items out of the lists and of the relevant ones."""
    max_users: int | None = None
    """Keep only so many users: those with the smallest hash."""

    @property
    def history_parts(self) -> str:
        """What ``history`` stands for where it is left to the default."""
        return self.history or (TRAIN_AND_VALID if self.split == c.TEST else TRAIN_ONLY)


@dataclass(frozen=True)
class Cases:
    """The users scored, one row each in all fields; ``counts`` says how they came about."""

    user_idx: NDArray[np.int32]
    history: Ragged
    """Items in order of time, the newest last, repeats kept."""
    relevant: Ragged
    """Distinct items, ascending; unknown ones stay and can only be missed."""
    masked: Ragged
    """Distinct items that must not be listed: the history where seen items are masked, else none."""
    is_cold: BoolArray
    counts: dict[str, Any]
    context: HistoryContext = NO_CONTEXT
    """What else is known of ``history``. Where times are asked for, a user is asked for at the time of his first held
    out event: that is known when a list is made on the spot, and nothing later is."""

    def __len__(self) -> int:
        return len(self.user_idx)

    def segment(self, name: str) -> BoolArray:
        """Which users a segment holds."""
        return {ALL: np.ones_like(self.is_cold), WARM: ~self.is_cold, COLD: self.is_cold}[name]


def build_cases(
    user_histories: pa.Table, num_events: IntArray, spec: CaseSpec, event_columns: Collection[str] = ()
) -> Cases:
    """The users to score: those with at least one history item and one relevant item.

    ``num_events`` [N] counts each item's train events; items with 0 are unknown to every model. ``event_columns`` are
    those that the model reads beside items.

    Raises: DataError when no user is left, or a weight is none.
    """
    user_idx = user_histories[c.USER_IDX].to_numpy().astype(np.int32)
    num_train = user_histories[c.NUM_TRAIN].to_numpy()
    history, context, target = _cut(user_histories, spec, event_columns)
    held_out = target.distinct()
    seen = history.distinct() if spec.mask_seen else Ragged.empty(len(history))
    relevant = held_out.without(seen)
    eligible = np.flatnonzero((history.lengths > 0) & (relevant.lengths > 0))
    counts = _count_users(history, held_out, relevant, len(eligible))
    if not len(eligible):
        raise DataError(_nobody_left(spec, counts))
    rows = _sample(eligible, user_idx, spec.max_users)
    cases = Cases(
        user_idx[rows], history.take(rows), relevant.take(rows), seen.take(rows), num_train[rows] == 0, counts,
        context.take(history, rows),
    )  # fmt: skip
    counts |= _count_items(cases, held_out.take(rows), num_events)
    return cases


def read_by_time(
    user_histories: pa.Table, event_columns: Collection[str] = (), until_us: int | None = None
) -> tuple[Ragged, HistoryContext]:
    """(all events of each user, the newest last, what else is known of them): the table has events by part of the split
    first. ``until_us``: only those strictly before that moment, at which users are asked for.
    """
    events, ts = Ragged.from_arrow(user_histories[c.ITEM_IDX]), pc.list_flatten(user_histories[c.TS]).to_numpy()
    order, context = _places(events), HistoryContext.from_rows(user_histories, event_columns)
    if until_us is not None:
        order, context = order.where(ts < until_us), context.at(until_us, len(events))
    order = order.sort_by(ts[order.values])
    return Ragged(order.offsets, events.values[order.values]), context.pick(order.values)


def _places(events: Ragged) -> Ragged:
    """The place of each event among those of all users."""
    return Ragged(events.offsets, np.arange(len(events.values), dtype=np.int32))


def _cut(
    user_histories: pa.Table, spec: CaseSpec, event_columns: Collection[str]
) -> tuple[Ragged, HistoryContext, Ragged]:
    """(history, the newest event last, what else is known of it; scored part) of each user: counts are prefix lengths
    of the parts in order.
    """
    events, ts = Ragged.from_arrow(user_histories[c.ITEM_IDX]), pc.list_flatten(user_histories[c.TS]).to_numpy()
    prefixes = [user_histories[name].to_numpy() for name in (c.NUM_TRAIN, c.NUM_VALID, c.NUM_CONTEXT)]
    train_end, valid_end, context_end = (np.repeat(end, events.lengths) for end in np.cumsum(prefixes, axis=0))
    place = events.place_of_value
    is_train, is_valid = place < train_end, (place >= train_end) & (place < valid_end)
    is_context, is_test = (place >= valid_end) & (place < context_end), place >= context_end
    in_history = is_train | is_context
    if spec.history_parts == TRAIN_AND_VALID:
        in_history |= is_valid
    order = _places(events).where(in_history).sort_by(ts[in_history])
    history = Ragged(order.offsets, events.values[order.values])
    is_held_out = is_test if spec.split == c.TEST else is_valid
    context = HistoryContext.from_rows(user_histories, event_columns).pick(order.values)
    if context.ts_us is not None:
        context = context.at(_find_first(events, ts, is_held_out), len(events))
    return history, context, events.where(is_held_out)


def _find_first(events: Ragged, ts: NDArray[np.int64], is_held_out: BoolArray) -> NDArray[np.int64]:
    """The time of each user's first held out event, `NEVER` without one."""
    first_us, rows = np.full(len(events), np.iinfo(np.int64).max), events.row_of_value[is_held_out]
    np.minimum.at(first_us, rows, ts[is_held_out])
    return np.where(np.bincount(rows, minlength=len(events)) > 0, first_us, NEVER)


def _sample(eligible: IntArray, user_idx: IntArray, max_users: int | None) -> IntArray:
    """Rows of the users with the smallest hashes, in table order: the same users whatever else is in the table."""
    if max_users is None or max_users >= len(eligible):
        return eligible
    order = np.argsort(hash_ids(user_idx[eligible]), kind="stable")
    return np.sort(eligible[order[:max_users]])


def _count_users(history: Ragged, held_out: Ragged, relevant: Ragged, num_eligible: int) -> dict[str, Any]:
    has_history, has_held_out = history.lengths > 0, held_out.lengths > 0
    return {
        "users_known": len(history),
        "users_without_held_out_items": int((~has_held_out).sum()),
        "users_without_history": int((has_held_out & ~has_history).sum()),
        "users_with_all_relevant_seen": int((has_held_out & has_history & (relevant.lengths == 0)).sum()),
        "users_eligible": num_eligible,
    }


def _count_items(cases: Cases, held_out: Ragged, num_events: IntArray) -> dict[str, Any]:
    is_unknown = num_events == 0
    return {
        "users": len(cases),
        "users_warm": int((~cases.is_cold).sum()),
        "users_cold": int(cases.is_cold.sum()),
        "history_events": len(cases.history.values),
        "history_events_unknown": int(is_unknown[cases.history.values].sum()),
        "median_history_events": float(np.median(cases.history.lengths)),
        "held_out_items": len(held_out.values),
        "held_out_items_seen": len(held_out.values) - len(cases.relevant.values),
        "relevant_items": len(cases.relevant.values),
        "relevant_items_unknown": int(is_unknown[cases.relevant.values].sum()),
        "masked_items": len(cases.masked.values),
    }


def _nobody_left(spec: CaseSpec, counts: dict[str, Any]) -> str:
    return (
        f"evaluate: no user can be scored on split {spec.split}: of {counts['users_known']:,} users "
        f"{counts['users_without_held_out_items']:,} have no {spec.split} events, {counts['users_without_history']:,} "
        f"no history ({spec.history_parts} and context), {counts['users_with_all_relevant_seen']:,} nothing relevant "
        f"that is unseen; move split.cut, choose another split.kind, or set evaluate.mask_seen to false"
    )
