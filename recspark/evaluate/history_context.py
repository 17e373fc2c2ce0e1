"""What is known of histories beside their items, for user towers that read more of an event than that.

user_histories row   item_idx [3, 5, 3], weight [1, 4, 0]   ->   weight [1, 4, 1e-6]

Arrays run beside the values of a `Ragged` of histories; whatever is done to the one is done to the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.evaluate.ragged import BoolArray, IntArray, Ragged

MIN_WEIGHT = 1e-6
"""What an event of weight 0 counts: next to nothing beside others, and something where there are no others."""


@dataclass(frozen=True)
class HistoryContext:
    """``weight`` float32 [N], above 0: what each event counts. None where nothing asks for it."""

    weight: NDArray[np.float32] | None = None

    @classmethod
    def from_rows(cls, rows: pa.Table) -> "HistoryContext":
        """Of all events of some rows of `user_histories`, by the columns that were read.

        Raises: DataError when a weight is no number of 0 or more, or there are not as many as items.
        """
        if c.WEIGHT not in rows.column_names:
            return cls()
        lengths = [pc.fill_null(pc.list_value_length(rows[name]), 0) for name in (c.ITEM_IDX, c.WEIGHT)]
        if not lengths[0].equals(lengths[1]):
            raise DataError("user_histories: rows with more items than weights, or fewer; run the sessions stage again")
        return cls(raise_weights(pc.list_flatten(rows[c.WEIGHT]).to_numpy()))

    def pick(self, events: IntArray | BoolArray) -> "HistoryContext":
        """Of some events, by places or marks."""
        return HistoryContext(None if self.weight is None else self.weight[events])

    def take(self, history: Ragged, rows: IntArray) -> "HistoryContext":
        """Of some users in the given order; ``history`` is theirs before."""
        places = Ragged(history.offsets, np.arange(len(history.values), dtype=np.int32)).take(rows)
        return self.pick(places.values)

    def block(self, history: Ragged, start: int, stop: int) -> "HistoryContext":
        """Of users start..stop-1; ``history`` is that of all."""
        return self.pick(np.arange(history.offsets[start], history.offsets[stop]))

    @classmethod
    def join(cls, parts: "Sequence[HistoryContext]") -> "HistoryContext":
        """Of the users of all parts; all of them know the same."""
        weights = [part.weight for part in parts if part.weight is not None]
        return cls(np.concatenate(weights) if weights else None)

    @classmethod
    def plain(cls, history: Ragged) -> "HistoryContext":
        """Of histories of which nothing else is known: all events alike."""
        return cls(np.ones(len(history.values), np.float32))


NO_CONTEXT = HistoryContext()
"""For models that read items alone."""


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
