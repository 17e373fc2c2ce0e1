"""Optimizers of embedding rows: state of one number a row, touched rows only."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RowwiseAdagrad:
    """w -= lr x g / (sqrt(s) + epsilon) with s += mean(g^2), one s a row.

    Plain SGD with the summed gradients of a large batch diverges on popular rows; here a row's step falls as it
    learns. ``rows`` must be distinct: duplicates are added up before (`ShardedEmbedding`).
    Source: Duchi et al. 2011 (Adagrad); row-wise as in Facebook's DLRM and PyTorch-BigGraph.
    """

    learning_rate: float
    epsilon: float = 1e-8

    def update(self, weight: Tensor, squares: Tensor, rows: Tensor, gradient: Tensor) -> None:
        """Updates ``weight`` [n, dim] and ``squares`` [n] at distinct ``rows`` [r], in place."""
        summed = squares.index_select(0, rows) + gradient.square().mean(1)
        squares.index_copy_(0, rows, summed)
        step = self.learning_rate / (summed.sqrt() + self.epsilon)
        # Three times as fast on a CPU as index_add_; rows are distinct, so the order does not matter.
        weight.scatter_add_(0, rows[:, None].expand_as(gradient), gradient * -step[:, None])
