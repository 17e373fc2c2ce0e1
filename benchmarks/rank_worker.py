"""One rank of `ranks`: trains its part of the global batches; seconds as one line of JSON."""

import json
import sys
from typing import Any

import numpy as np

from benchmarks.corpus import SENTENCE, make_corpus
from benchmarks.paired import timed
from benchmarks.skip_gram_runs import objective_of, training_config
from recspark.contracts.shards import shard_range
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences
from recspark.training.torch_backend import TorchBackend
from recspark.training.world import find_launch, open_world

_WARM_UP_STEPS = 3


def main(work: dict[str, Any]) -> dict[str, float]:
    """Seconds of ``work["steps"]`` steps on this rank."""
    rows, steps = work["batch_sequences"], work["steps"]
    corpus = make_corpus(work["num_items"], rows * SENTENCE * 8)
    config = training_config(epochs=1, batch_sequences=rows, backend="torch", num_lanes=2, num_threads=work["threads"])
    objective = objective_of(config, corpus.counts)
    with open_world(find_launch(), "cpu", timeout_seconds=120) as world:
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
