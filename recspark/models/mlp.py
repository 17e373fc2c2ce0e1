"""The layers behind a tower's inputs.

Shapes: N = rows, D = embedding_dim.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Mlp(nn.Module):
    """Hidden layers of the given widths, each norm -> linear -> activation -> dropout, and a linear one back to D.

    Without hidden layers it gives back what it gets. The last layer starts at zero where the input is added to the
    output (``residual``): a tower begins as the sum of its inputs.
    """

    def __init__(
        self, dim: int, hidden: tuple[int, ...], activation: str, norm: str, dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        widths = (dim, *hidden)
        blocks: list[nn.Module] = []
        for width, following in zip(widths, hidden, strict=False):
            blocks += [_norm(norm, width), nn.Linear(width, following)]
            blocks += [nn.ReLU() if activation == "relu" else nn.GELU(), nn.Dropout(dropout)]
        if hidden:
            blocks.append(nn.Linear(widths[-1], dim))
            if residual:
                nn.init.zeros_(blocks[-1].weight)  # type: ignore[arg-type]
                nn.init.zeros_(blocks[-1].bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(*blocks)

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        if not len(self.layers):
            return x_ND
        out: Tensor = self.layers(x_ND)
        return x_ND + out if self.residual else out


def _norm(kind: str, width: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return nn.LayerNorm(width) if kind == "layer" else RankedBatchNorm(width)


class RankedBatchNorm(nn.Module):
    """Batch norm over the rows of all ranks, so that a global batch gives the same on any number of them.

    Sums and their gradients travel by all-reduce, on gloo too (torch's SyncBatchNorm is for GPUs only). Source: Ioffe &
    Szegedy 2015; running statistics with momentum .1, as in torch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.momentum, self.epsilon = momentum, epsilon
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x_ND: Tensor) -> Tensor:
        """[N, D] -> [N, D]. Collective in training."""
        mean, variance = self._measure(x_ND) if self.training else (self.running_mean, self.running_var)
        return (x_ND - mean) * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias

    def _measure(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        count = x_ND.new_full((1,), len(x_ND))
        sums = torch.cat([x_ND.sum(0), x_ND.square().sum(0), count])
        sums = _SumOverRanks.apply(sums)
        total, squares, count = sums.split([x_ND.shape[1], x_ND.shape[1], 1])
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return mean, variance


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over the ranks; every rank's loss hangs on every rank's rows, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _sum(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _sum(gradient)


def _sum(values: Tensor) -> Tensor:
    total = values.clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total
