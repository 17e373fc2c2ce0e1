"""All vectors by id of a tower model in one table over the ranks, so that a step fetches and updates them at once:

row i                                   vector of item i
row num_items + i                       its vector in a history, where that is another one
row (1 or 2) x num_items + u            vector of user u, where users have one
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.models.sharded_embedding import (
    Ranks,
    Route,
    RowLayout,
    RowUpdate,
    ShardedEmbedding,
    find_route,
    plan_route,
)


@dataclass(frozen=True)
class TowerRows:
    """Which rows there are: ``num_users`` is 0 where users have no vector of their own."""

    num_items: int
    num_users: int
    has_history_items: bool = False

    @property
    def first_user(self) -> int:
        """Row of user 0."""
        return self.num_items * (2 if self.has_history_items else 1)

    @property
    def num_rows(self) -> int:
        """Of the whole table."""
        return self.first_user + self.num_users


class TowerTable:
    """The table and its optimizer's state: ``moments`` float32 [local, dim] and ``steps`` float32 [local] beside
    ``squares``, for row-wise Adam.
    """

    def __init__(
        self, rows: TowerRows, dim: int, ranks: Ranks, initial_rows: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    ) -> None:
        self.rows, self.ranks = rows, ranks
        self.layout = RowLayout(rows.num_rows, ranks.world_size)
        self.table = ShardedEmbedding(self.layout, dim, ranks, initial_rows)
        self.moments = torch.zeros_like(self.table.weight)
        self.steps = torch.zeros_like(self.table.squares)

    def route(self, rows: NDArray[np.int64]) -> Route:
        """The way to distinct rows (int64 [r]). Collective."""
        return find_route(self.layout, plan_route(self.layout, rows), self.ranks)

    def lookup(self, route: Route) -> Tensor:
        """float32 [r, dim], in the order of the rows. Collective."""
        return self.table.lookup(route)

    def apply_gradient(self, route: Route, gradient: Tensor, update: RowUpdate) -> None:
        """Updates the rows by their gradient [r, dim], summed over the ranks. Collective."""
        self.table.apply_gradient(route, gradient, update)

    def state(self) -> dict[str, Tensor]:
        """This rank's rows of all that a checkpoint holds, in position order; changed in place by training."""
        own = {"vectors": self.table.weight, "squares": self.table.squares}
        return own | {"moments": self.moments, "steps": self.steps}
