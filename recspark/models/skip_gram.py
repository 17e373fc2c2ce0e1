"""The skip-gram family's vectors over the ranks: an input vector an item, an output vector an item or inner node.

Both lie in one table, so that a batch fetches and updates all its rows by one exchange each way:

    row i of the table        input vector of item i
    row num_items + i         output vector of item (or inner node) i

Source: Mikolov et al. 2013 (word2vec); Barkan & Koenigstein 2016 (items for words).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recspark.models.sharded_embedding import (
    Ranks,
    Route,
    RoutePlan,
    RowLayout,
    RowUpdate,
    ShardedEmbedding,
    find_route,
    plan_route,
)


class SkipGram:
    """One table of ``2 x num_items`` rows; output vectors start at zero: the first gradients of the input are zero."""

    def __init__(
        self,
        num_items: int,
        dim: int,
        ranks: Ranks,
        initial_rows: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> None:
        """``initial_rows`` gives the input vectors of items, whoever holds them."""
        self.num_items, self.layout, self.ranks = num_items, RowLayout(2 * num_items, ranks.world_size), ranks

        def with_outputs(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            """Rows of the whole table: output vectors are zero."""
            values = np.zeros((len(rows), dim), np.float32)
            values[rows < num_items] = initial_rows(rows[rows < num_items])
            return values

        self.table = ShardedEmbedding(self.layout, dim, ranks, with_outputs)

    def plan(self, inputs: NDArray[np.int64], outputs: NDArray[np.int64]) -> RoutePlan:
        """What can be known ahead of the route of distinct ``inputs`` [u], then distinct ``outputs`` [r]."""
        return plan_route(self.layout, np.concatenate([inputs, outputs + self.num_items]))

    def route(self, plan: RoutePlan) -> Route:
        """The route of a plan. Collective."""
        return find_route(self.layout, plan, self.ranks)

    def lookup(self, route: Route) -> Tensor:
        """Input rows, then output rows: float32 [u + r, dim]. Collective."""
        return self.table.lookup(route)

    def apply_gradient(self, route: Route, gradient: Tensor, update: RowUpdate) -> None:
        """Updates the rows by their gradient [u + r, dim]. Collective."""
        self.table.apply_gradient(route, gradient, update)

    def state(self) -> dict[str, Tensor]:
        """This rank's rows of all that a checkpoint holds, in position order; changed in place by training."""
        return {"vectors": self.table.weight, "squares": self.table.squares}

    def is_finite(self) -> bool:
        """Whether this rank's optimizer state is free of NaN and infinity; any such gradient would show there."""
        return bool(torch.isfinite(self.table.squares.sum()))
