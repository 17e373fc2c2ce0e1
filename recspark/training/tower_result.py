"""A trained tower model as plain arrays: vectors of items, and what makes a user's vector of a history.

Shapes: V = items, U = users, D = embedding_dim.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import Ragged
from recspark.evaluate.user_tower import UserTowerSpec, encode_users
from recspark.training.tables import SkipGramTables

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class UserSide:
    """The user tower: ``arrays`` by name as `evaluate.user_tower` reads them.

    ``static`` [U, D] and ``has_static`` bool [U] where users have something of their own, beside ``missing`` [D], which
    stands in for that of a user unseen in training.
    """

    spec: UserTowerSpec
    arrays: dict[str, NDArray[Any]]
    static: Floats | None = None
    has_static: NDArray[np.bool_] | None = None
    missing: Floats | None = None

    def to_facts(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self.spec) | {"hidden": list(self.spec.hidden)}

    def encode(self, tokens_VD: Floats, history: Ragged, user_idx: NDArray[np.integer[Any]]) -> Floats:
        """Vectors of some users by their histories (item_idx, all with a token)."""
        static, known = None, None
        if self.static is not None:
            assert self.has_static is not None
            static, known = self.static[user_idx], self.has_static[user_idx]
        return encode_users(self.spec, self.arrays, tokens_VD, history, static, known)


@dataclass(frozen=True)
class TowerResult:
    """``query`` [V, D] is what stands for an item in a history, ``candidate`` [V, D] what is recommended; both zero
    where an item is not ``is_listed`` bool [V]. ``item_arrays`` are the item tower's by name, ``features`` how features
    were encoded ({"item": [...], "user": [...]}); both only for those who export the towers.
    """

    query: Floats
    candidate: Floats
    is_listed: NDArray[np.bool_]
    users: UserSide
    item_arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    features: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def tables_of(self, items: range) -> SkipGramTables:
        """A range of the items, in the shape of a skip-gram's two tables."""
        own = slice(items.start, items.stop)
        return SkipGramTables(self.query[own], self.candidate[own], self.is_listed[own])
