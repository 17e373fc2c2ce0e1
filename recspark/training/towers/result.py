"""A trained tower model as plain arrays: vectors of items, and what makes a user's vector of a history.

Shapes: V = items, U = users, D = embedding_dim.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.history_context import HistoryContext
from recspark.evaluate.ragged import IntArray, Ragged
from recspark.evaluate.ranking_head import StoredRankingHead
from recspark.evaluate.user_tower import StoredUserTower
from recspark.training.tables import SkipGramTables

Floats = NDArray[np.float32]
ITEM_INPUTS = "inputs"
"""Among the item tower's arrays: what each item is to those that it is a neighbour of."""


@dataclass(frozen=True)
class TowerResult:
    """``query`` [V, D] is what stands for an item in a history, ``candidate`` [V, D] what is recommended; both zero
    where an item is not ``is_listed`` bool [V]. ``item_arrays`` are the item tower's by name, with `ITEM_INPUTS` [V, D]
    of a tower that reads neighbours; ``features`` how features were encoded ({"item": [...], "user": [...]}). Both only
    for those who export the towers. ``head`` ranks candidates once more, None where the model has none.
    """

    query: Floats
    candidate: Floats
    is_listed: NDArray[np.bool_]
    users: StoredUserTower
    item_arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    features: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    head: StoredRankingHead | None = None

    def encode_users(self, history: Ragged, user_idx: IntArray, context: HistoryContext) -> Floats:
        """[U, D] or [U, K, D] of histories of item_idx, of which those that are not listed do not count."""
        is_listed = self.is_listed[history.values]
        return self.users.encode(self.query, history.where(is_listed), user_idx, context.pick(is_listed))

    def tables_of(self, items: range) -> SkipGramTables:
        """A range of the items, in the shape of a skip-gram's two tables."""
        own = slice(items.start, items.stop)
        return SkipGramTables(self.query[own], self.candidate[own], self.is_listed[own])
