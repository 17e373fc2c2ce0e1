"""Optimizers of embedding rows: state of one number a row, touched rows only."""

from dataclasses import dataclass

import torch
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
        """Updates ``weight`` [n, dim] and ``squares`` [n] at distinct ``rows`` [r], in place; uses ``gradient`` up."""
        # A third of the time of square().mean(1), which writes the squares down.
        summed = squares.index_select(0, rows) + torch.linalg.vector_norm(gradient, dim=1).square_() / weight.shape[1]
        squares.index_copy_(0, rows, summed)
        step = self.learning_rate / (summed.sqrt() + self.epsilon)
        # Half as long again on a CPU by index_add_; rows are distinct, so the order does not matter.
        weight.scatter_add_(0, rows[:, None].expand_as(gradient), gradient.mul_(-step[:, None]))


@dataclass(frozen=True)
class RowwiseAdam:
    """Adam with one second moment a row, for touched rows only; ``moments`` [n, dim] and ``steps`` [n] beside squares.

    m <- b1 m + (1 - b1) g; s <- b2 s + (1 - b2) mean(g^2); w -= lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + epsilon),
    t a row's own steps, g with ``weight_decay`` x w. Unlike Adagrad's, a row's step does not fall as it learns: the
    schedule does that. Source: Kingma & Ba 2015, algorithm 1; lazy as torch's SparseAdam.
    """

    learning_rate: float
    moments: Tensor
    steps: Tensor
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.99
    epsilon: float = 1e-12

    def update(self, weight: Tensor, squares: Tensor, rows: Tensor, gradient: Tensor) -> None:
        """Updates ``weight`` [n, dim] and ``squares`` [n] at distinct ``rows`` [r], in place."""
        before = weight.index_select(0, rows)
        if self.weight_decay:
            gradient = gradient.add(before, alpha=self.weight_decay)
        steps = self.steps.index_select(0, rows) + 1
        squared = torch.lerp(gradient.square().mean(1), squares.index_select(0, rows), self.b2)
        moment = torch.lerp(gradient, self.moments.index_select(0, rows), self.b1)
        self.steps.index_copy_(0, rows, steps)
        squares.index_copy_(0, rows, squared)
        self.moments.index_copy_(0, rows, moment)
        rate = self.learning_rate / (1 - self.b1**steps)
        rate /= (squared / (1 - self.b2**steps)).sqrt() + self.epsilon
        weight.index_copy_(0, rows, before.addcmul_(moment, rate[:, None], value=-1))
