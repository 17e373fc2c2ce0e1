"""A word on trainings of so few steps that they can hardly learn.

In torch a global batch is one update: each row goes one step, however many pairs it is in. A small corpus has few
batches of the usual size, and its loss stays near an untrained model's. The CPU kernel updates after each short block
of sentences, so there few batches are as good as many.
"""

from recspark.config.schema import TrainingConfig
from recspark.logs import log
from recspark.training.backend import TORCH, Backend
from recspark.training.data import SequenceReader
from recspark.training.schedule import Schedule
from recspark.training.world import World

FEW_STEPS = 50
"""Below so many updates in all a training is told to be short."""


def warn_of_few_steps(
    backend: Backend, schedule: Schedule, reader: SequenceReader, config: TrainingConfig, world: World
) -> None:
    """Rank 0 says when a training in torch has fewer than `FEW_STEPS` steps in all, and what to do about it."""
    steps = schedule.num_steps
    if world.rank > 0 or backend.name != TORCH or steps >= FEW_STEPS:
        return
    smaller = find_smaller_batch(steps, min(config.batch_sequences, reader.num_rows), reader.num_lanes)
    advice = f"lower training.batch_sequences, now {config.batch_sequences:,}, to {smaller:,}" if smaller else ""
    advice = (
        advice or f"training.batch_sequences is as low as its {reader.num_lanes} lanes allow; raise training.epochs"
    )
    log("train", f"warning: only {steps} steps in all, each one update, learn little: {advice}")


def find_smaller_batch(num_steps: int, batch_sequences: int, num_lanes: int) -> int | None:
    """The largest batch that makes `FEW_STEPS` steps of ``num_steps``, a multiple of the lanes and at least one of each
    lane; None where the batch is as small already.

    find_smaller_batch(5, 1024, 64) == 64        find_smaller_batch(5, 1024, 4) == 100
    """
    wanted = batch_sequences * num_steps // FEW_STEPS
    smaller = max(wanted // num_lanes, 1) * num_lanes
    return smaller if smaller < batch_sequences else None
