"""What is known of histories beside their items, for user towers that read more of an event than that.

user_histories row   item_idx [3, 5, 3], weight [1, 4, 0], ts [...]   ->   weight [1, 4, 1e-6], ts_us [...]

Arrays run beside the values of a `Ragged` of histories; whatever is done to the one is done to the other.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.evaluate.ragged import BoolArray, IntArray, Ragged
from recspark.evaluate.time_features import NEVER

MIN_WEIGHT = 1e-6
"""What an event of weight 0 counts: next to nothing beside others, and something where there are no others."""


@dataclass(frozen=True)
class HistoryContext:
    """Of each event, ``weight`` float32 [N] above 0 is what it counts, ``ts_us`` int64 [N] when it was; ``moment_us``
    int64 [U] is when each user is asked for. Times are microseconds since the epoch; None is what nothing asks for.
    """

    weight: NDArray[np.float32] | None = None
    ts_us: NDArray[np.int64] | None = None
    moment_us: NDArray[np.int64] | None = None

    @classmethod
    def from_rows(cls, rows: pa.Table, event_columns: Collection[str]) -> "HistoryContext":
        """Of all events of some rows of `user_histories`, by the columns that are asked for.

        Raises: DataError when a weight is no number of 0 or more, or there are not as many as items.
        """
        weight = ts_us = None
        if c.WEIGHT in event_columns:
            weight = raise_weights(_flatten(rows, c.WEIGHT, "weights"))
        if c.TS in event_columns:
            ts_us = _flatten(rows, c.TS, "times")
        return cls(weight, ts_us)

    def at(self, moment_us: NDArray[np.int64] | int, num_users: int) -> "HistoryContext":
        """The same with users asked for at some moment, or each at his own, where times are asked for."""
        if self.ts_us is None:
            return self
        moments = np.broadcast_to(np.asarray(moment_us, np.int64), num_users)
        return HistoryContext(self.weight, self.ts_us, moments)

    def pick(self, events: IntArray | BoolArray) -> "HistoryContext":
        """Of some events, by places or marks; of the same users."""
        return HistoryContext(
            None if self.weight is None else self.weight[events],
            None if self.ts_us is None else self.ts_us[events],
            self.moment_us,
        )

    def take(self, history: Ragged, rows: IntArray) -> "HistoryContext":
        """Of some users in the given order; ``history`` is theirs before."""
        places = Ragged(history.offsets, np.arange(len(history.values), dtype=np.int32)).take(rows)
        found = self.pick(places.values)
        return found if self.moment_us is None else replace(found, moment_us=self.moment_us[rows])

    def block(self, history: Ragged, start: int, stop: int) -> "HistoryContext":
        """Of users start..stop-1; ``history`` is that of all."""
        found = self.pick(np.arange(history.offsets[start], history.offsets[stop]))
        return found if self.moment_us is None else replace(found, moment_us=self.moment_us[start:stop])

    @classmethod
    def join(cls, parts: "Sequence[HistoryContext]") -> "HistoryContext":
        """Of the users of all parts; all of them know the same."""
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        known = ([values for values in column if values is not None] for column in columns)
        return cls(*(np.concatenate(column) if column else None for column in known))

    @classmethod
    def plain(cls, history: Ragged, moment_us: int) -> "HistoryContext":
        """Of histories of which nothing else is known: all events alike, at times that nobody knows."""
        num_events = len(history.values)
        return cls(np.ones(num_events, np.float32), np.full(num_events, NEVER)).at(moment_us, len(history))


NO_CONTEXT = HistoryContext()
"""For models that read items alone."""


def _flatten(rows: pa.Table, column: str, noun: str) -> NDArray[Any]:
    """A list column's values; there are as many as items."""
    lengths = [pc.fill_null(pc.list_value_length(rows[name]), 0) for name in (c.ITEM_IDX, column)]
    if not lengths[0].equals(lengths[1]):
        raise DataError(f"user_histories: rows with more items than {noun}, or fewer; run the sessions stage again")
    values: NDArray[Any] = pc.list_flatten(rows[column]).to_numpy()
    return values


def raise_weights(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Event weights, raised to `MIN_WEIGHT` at least.

    Raises: DataError for NaN, infinity and negative numbers.
    """
    is_bad = ~(np.isfinite(weight) & (weight >= 0))
    if is_bad.any():
        raise DataError(
            f"user_histories: {int(is_bad.sum()):,} of {len(weight):,} event weights are no numbers of 0 or more, the "
            f"first is {weight[is_bad][0]}; run the sessions stage again, or set model.towers.user.history."
            f"event_weights to false"
        )
    return np.asarray(np.maximum(weight, MIN_WEIGHT), np.float32)
