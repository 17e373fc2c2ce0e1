"""The skip-gram family's tables over the ranks: an input vector an item, an output vector an item or inner node.

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
    """Two tables of one layout; output vectors start at zero, so that the first gradients of the input are zero."""

    def __init__(
        self,
        num_items: int,
        dim: int,
        ranks: Ranks,
        initial_rows: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    ) -> None:
        self.layout, self.ranks = RowLayout(num_items, ranks.world_size), ranks
        self.input = ShardedEmbedding(self.layout, dim, ranks, initial_rows)
        self.output = ShardedEmbedding(self.layout, dim, ranks)

    def plan(self, ids: NDArray[np.int64]) -> RoutePlan:
        """What can be known ahead of the route of distinct rows of either table."""
        return plan_route(self.layout, ids)

    def route(self, plan: RoutePlan) -> Route:
        """The route of a plan. Collective."""
        return find_route(self.layout, plan, self.ranks)

    def lookup(self, input_route: Route, output_route: Route) -> tuple[Tensor, Tensor]:
        """(input rows, output rows), float32 [r, dim] each. Collective."""
        return self.input.lookup(input_route), self.output.lookup(output_route)

    def apply_gradient(
        self,
        input_route: Route,
        output_route: Route,
        input_gradient: Tensor,
        output_gradient: Tensor,
        update: RowUpdate,
    ) -> None:
        """Updates both tables. Collective."""
        self.input.apply_gradient(input_route, input_gradient, update)
        self.output.apply_gradient(output_route, output_gradient, update)

    def state(self) -> dict[str, Tensor]:
        """This rank's rows of all that a checkpoint holds, in position order; changed in place by training."""
        return {
            "input_vectors": self.input.weight,
            "output_vectors": self.output.weight,
            "input_squares": self.input.squares,
            "output_squares": self.output.squares,
        }

    def is_finite(self) -> bool:
        """Whether this rank's optimizer state is free of NaN and infinity; any such gradient would show there."""
        total = self.input.squares.sum() + self.output.squares.sum()
        return bool(torch.isfinite(total))
