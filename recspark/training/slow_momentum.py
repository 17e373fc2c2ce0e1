"""SlowMo: ranks train on their own for a while, then average, and a slow momentum carries on the way they went.

It is for parameters that every rank holds whole (dense towers). A row of a sharded table has one owner, whose update
sees all ranks' gradients: there is nothing to average, and tables are left as they are.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.model_averaging.utils import average_parameters
from torch.nn import Parameter
from torch.optim import Optimizer

from recspark.training.world import World


class SlowMomentum:
    """A base optimizer whose parameters are averaged and pushed on after every ``period`` steps.

    With x0 the parameters after the last such step, x those after ``period`` steps of the base optimizer at rate g,
    averaged over the ranks, and u the slow momentum (0 at first):

        u <- momentum u + (x0 - x) / g
        x <- x0 - learning_rate g u

    momentum 0 and learning_rate 1 are plain averaging (local SGD). Gradients must not be averaged in between (DDP's
    `no_sync`), or no communication is saved. Cost: two more copies of the parameters a rank.

    Source: Wang, Tantia, Ballas & Rabbat 2020 (SlowMo), algorithm 1; the base optimizer keeps its buffers.
    """

    def __init__(self, base: Optimizer, period: int, momentum: float, learning_rate: float, world: World) -> None:
        self.base, self._world = base, world
        self._period, self._factor, self._learning_rate = period, momentum, learning_rate
        self._steps = 0
        self._start = [parameter.detach().clone() for parameter in self._parameters()]
        self._momentum = [torch.zeros_like(tensor) for tensor in self._start]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's, whose ``lr`` a schedule sets."""
        return self.base.param_groups

    def zero_grad(self) -> None:
        """As the base optimizer's."""
        self.base.zero_grad()

    def step(self) -> None:
        """A step of the base optimizer and, when a period is over, the slow one; collective then."""
        self.base.step()
        self._steps += 1
        if self._steps % self._period == 0:
            if self._world.world_size > 1:
                assert dist.group.WORLD is not None
                with self._world.naming_the_missing():
                    average_parameters(self._parameters(), dist.group.WORLD)
            self._push_on()

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint has to hold."""
        return {"base": self.base.state_dict(), "steps": self._steps, "start": self._start, "momentum": self._momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self.base.load_state_dict(state["base"])
        self._steps = state["steps"]
        for own, read in ((self._start, state["start"]), (self._momentum, state["momentum"])):
            for tensor, value in zip(own, read, strict=True):
                tensor.copy_(value)

    @torch.no_grad()
    def _push_on(self) -> None:
        rates = [group["lr"] for group in self.param_groups for _ in group["params"]]
        for x, x0, u, rate in zip(self._parameters(), self._start, self._momentum, rates, strict=True):
            u.mul_(self._factor).add_(x0 - x, alpha=1 / rate)
            x0.sub_(u, alpha=self._learning_rate * rate)
            x.copy_(x0)

    def _parameters(self) -> Iterator[Parameter]:
        return (parameter for group in self.param_groups for parameter in group["params"])
