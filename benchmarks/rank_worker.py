"""One rank of `ranks`: trains its part of the global batches; seconds as one line of JSON.

With ``{"tables": "plain"}`` the same steps without ranks: one tensor, no `ShardedEmbedding`.
"""

import json
import sys
from typing import Any

import numpy as np
import torch

from benchmarks.corpus import SENTENCE, make_corpus
from benchmarks.paired import timed
from benchmarks.skip_gram_runs import objective_of, training_config
from recspark.contracts.shards import shard_range
from recspark.memory import keep_freed_memory
from recspark.training.batches import StepBatch, StepBatches
from recspark.training.gradients import find_gradients
from recspark.training.init import init_rows
from recspark.training.objective import Objective, Place
from recspark.training.optim import RowwiseAdagrad
from recspark.training.sequence_files import Sequences
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import find_launch, open_world

_WARM_UP_STEPS = 3


class PlainTensors:
    """The step of `TorchBackend` as one would write it for one process: rows by id, updated in place."""

    def __init__(self, dim: int, objective: Objective, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        keep_freed_memory()
        ids = np.arange(objective.num_items)
        inputs = torch.from_numpy(init_rows(ids, dim, objective.config.init_scale, objective.seed))
        self._vectors = torch.cat([inputs, torch.zeros_like(inputs)])
        self._num_items, self._squares = objective.num_items, torch.zeros(2 * objective.num_items)
        self._batches = StepBatches(objective)
        self._loss = torch.zeros((), dtype=torch.float64)

    def prepare(self, batch: Sequences, place: Place) -> StepBatch:
        """Tokens, windows, rows and negatives of a batch."""
        return self._batches.prepare(batch, place)

    def step(self, batch: StepBatch, rate: float) -> None:
        """Learns from a batch."""
        rows = torch.from_numpy(np.concatenate([batch.tokens.items, batch.outputs + self._num_items]))
        loss, gradient = find_gradients(batch, self._vectors.index_select(0, rows))
        RowwiseAdagrad(rate).update(self._vectors, self._squares, rows, gradient)
        self._loss += loss


def main(work: dict[str, Any]) -> dict[str, float]:
    """Seconds of ``work["steps"]`` steps on this rank."""
    rows, steps = work["batch_sequences"], work["steps"]
    corpus = make_corpus(work["num_items"], rows * SENTENCE * 8)
    config = training_config(epochs=1, batch_sequences=rows, backend="torch", num_lanes=2, num_threads=work["threads"])
    objective = objective_of(config, corpus.counts)
    with open_world(find_launch(), "cpu", timeout_seconds=120) as world:
        backend: TorchBackend | PlainTensors
        if work.get("tables") == "plain":
            backend = PlainTensors(work["dim"], objective, work["threads"])
        else:
            backend = TorchBackend(work["dim"], objective, world, work["threads"])
        own = shard_range(world.rank, world.world_size, rows)

        def step(number: int) -> None:
            sentences = corpus.tokens[number % 8 * rows :][own.start : own.stop]
            batch = Sequences(sentences.ravel(), np.arange(0, sentences.size + 1, SENTENCE))
            world.arrive(number)
            backend.step(backend.prepare(batch, Place(0, number, number, own.start)), config.learning_rate)

        for number in range(_WARM_UP_STEPS):
            step(number)
        world.barrier()
        with timed() as timing:
            for number in range(_WARM_UP_STEPS, _WARM_UP_STEPS + steps):
                step(number)
            world.barrier()
    return {"wall": timing.wall, "cpu": timing.cpu}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
