"""How many steps a training has, and the learning rate of each: a function of the step alone."""

import math
from dataclasses import dataclass

from recspark.config.schema import TrainingConfig
from recspark.errors import TrainingError

FINAL_RATE = 0.01
"""What linear and cosine schedules fall to, as a share of the highest rate: where a step after the last would be."""


@dataclass(frozen=True)
class Schedule:
    """``rate`` of every step; ``kind`` is linear, cosine or constant.

    Raises: TrainingError when warming up would take the whole training.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    kind: str = "linear"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.warmup_steps >= max(self.num_steps, 1):
            raise TrainingError(
                f"training.warmup_steps: {self.warmup_steps}, but the whole training has {self.num_steps} steps "
                f"({self.epochs} epochs of {self.steps_per_epoch}); lower it"
            )

    @property
    def num_steps(self) -> int:
        """Global batches of the whole training."""
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """The learning rate of a global step, from 0: the schedule's, times (step + 1) / warmup_steps while below 1."""
        return (
            self.learning_rate * self._share(step / self.num_steps) * min(1.0, (step + 1) / max(self.warmup_steps, 1))
        )

    def _share(self, progress: float) -> float:
        """Of the highest rate, at ``progress`` 0..1."""
        if self.kind == "constant":
            return 1.0
        fallen = progress if self.kind == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return 1 - (1 - FINAL_RATE) * fallen


def plan_schedule(config: TrainingConfig, steps_per_epoch: int) -> Schedule:
    """The schedule of a training.

    Raises: TrainingError when it is too short for `training.warmup_steps`.
    """
    return Schedule(config.epochs, steps_per_epoch, config.learning_rate, config.schedule, config.warmup_steps)
