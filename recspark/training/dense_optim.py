"""The optimizer of what every rank holds whole: AdamW on gradients summed over the ranks, or SlowMo."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from recspark.config.trainer import DenseConfig
from recspark.training.distx import build_dense_optimizer
from recspark.training.world import World


class DenseOptimizer:
    """Steps the parameters of modules; does nothing where there are none.

    Gradients are those of each rank's part of a loss that is a mean over the global batch, so their sum is the whole.
    Under SlowMo ranks go apart and are averaged now and then: each learns from its own part alone, as if that were all.
    """

    def __init__(self, modules: nn.Module, config: DenseConfig, world: World) -> None:
        self._parameters = [p for p in modules.parameters() if p.requires_grad]
        self._rate, self._world = config.learning_rate, world
        self.is_apart = config.slowmo is not None and bool(self._parameters)
        """Whether ranks hold different parameters between two averages."""
        self._optimizer: Any = None
        if not self._parameters:
            return
        self._optimizer = build_dense_optimizer(self._parameters, config.learning_rate, config, world)

    def step(self, factor: float) -> None:
        """A step at ``factor`` (what the schedule says of the highest rate) x the section's rate. Collective."""
        if self._optimizer is None:
            return
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._combine()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * factor
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint has to hold."""
        return {} if self._optimizer is None else self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        if self._optimizer is not None:
            self._optimizer.load_state_dict(state)

    def _combine(self) -> None:
        """The sum of all ranks' gradients, in one message."""
        if self._world.world_size == 1:
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if self.is_apart:
            torch._foreach_mul_(gradients, float(self._world.world_size))
            return
        flat = torch.cat([g.reshape(-1) for g in gradients])
        with self._world.naming_the_missing():
            dist.all_reduce(flat)
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
