"""How much each item of a history counts when a user is looked at: all alike, or the last ones more.

the item at place i from the last (the newest at 0) weighs decay^i; from place num_items on it does not count

history [4, 7, 4, 9], decay .5                weights [1/8, 1/4, 1/2, 1]
the same of distinct items                    {4: 1/2, 7: 1/4, 9: 1}      an item counts once, by its newest place
history [4, 7, 4, 9], decay .5, num_items 2   [4, 9] with weights [1/2, 1]

Items that a model knows nothing about are left out before, so they take no place.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import Ragged

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class HistoryWeights:
    """``decay`` in (0, 1]: 1 weighs all alike. ``num_items``: only so many last ones count, None for all."""

    decay: float = 1.0
    num_items: int | None = None

    def cut(self, history: Ragged) -> Ragged:
        """The items of each row that count."""
        if self.num_items is None:
            return history
        return history.where(_place_from_last(history) < self.num_items)

    def weigh(self, history: Ragged) -> tuple[Ragged, Weights]:
        """(items that count, the weight of each), repeats kept; the newest item of a row weighs 1."""
        kept = self.cut(history)
        if self.decay == 1:
            return kept, np.ones(len(kept.values))
        return kept, np.power(self.decay, _place_from_last(kept))

    def weigh_distinct(self, history: Ragged) -> tuple[Ragged, Weights]:
        """(distinct items that count, ascending in each row; the weight of each by its newest place)."""
        kept, weights = self.weigh(history)
        distinct = kept.distinct()
        if self.decay == 1:
            return distinct, np.ones(len(distinct.values))
        order = np.lexsort((kept.values, kept.row_of_value))  # stable: of an item's places the newest comes last
        rows, items = kept.row_of_value[order], kept.values[order]
        is_newest = np.ones(len(order), np.bool_)
        is_newest[:-1] = (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])
        return distinct, weights[order][is_newest]


ALL_ALIKE = HistoryWeights()
"""Every item of a history counts 1."""


def _place_from_last(history: Ragged) -> NDArray[np.int64]:
    """The place of each value counted from its row's last, which is at 0."""
    return np.repeat(history.offsets[1:], history.lengths) - 1 - np.arange(len(history.values), dtype=np.int64)
