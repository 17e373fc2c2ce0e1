"""The project's skip-gram backends on sentences in memory, as the trainer drives them: batches, a falling rate."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import SENTENCE
from benchmarks.paired import Timing, timed
from recspark.config.schema import ModelConfig, TrainingConfig
from recspark.training.backend import Backend
from recspark.training.cpu_backend import CpuBackend
from recspark.training.objective import Objective, Place, build_objective
from recspark.training.schedule import plan_schedule
from recspark.training.sequence_files import Sequences

WARM_UP_ROWS = 64


def training_config(**settings: Any) -> TrainingConfig:
    """word2vec's arithmetic (window 5 shrunk at random, 5 negatives, noise .75) with our step and shared negatives."""
    return TrainingConfig.model_validate({"noise_exponent": 0.75, "window": 5, "num_negatives": 5, **settings})


def objective_of(config: TrainingConfig, num_events: NDArray[np.int64], seed: int = 1) -> Objective:
    """Skip-gram with negative sampling over items with these counts."""
    return build_objective(ModelConfig(), config, num_events, seed)


def cut_batches(tokens_SL: NDArray[np.int32], batch_rows: int) -> list[Sequences]:
    """Global batches of consecutive sentences."""
    num_rows, length = tokens_SL.shape
    return [
        Sequences(tokens_SL[start : start + batch_rows].ravel(), np.arange(0, (rows + 1) * length, length))
        for start in range(0, num_rows, batch_rows)
        for rows in [min(batch_rows, num_rows - start)]
    ]


def places(config: TrainingConfig, num_batches: int) -> Iterator[Place]:
    """Every step's place, in order."""
    for step in range(config.epochs * num_batches):
        yield Place(step // num_batches, step % num_batches, step, 0)


def train_on_cpu(
    tokens_SL: NDArray[np.int32], num_items: int, dim: int, config: TrainingConfig, seed: int = 1
) -> tuple[NDArray[np.float32], Timing]:
    """(item vectors [V, dim], seconds of the training alone) of the numba kernel; the tables' start is not timed."""
    counts = np.bincount(tokens_SL.ravel(), minlength=num_items)
    backend = CpuBackend(dim, objective_of(config, counts, seed))
    timing = train_batches(backend, cut_batches(tokens_SL, config.batch_sequences), config)
    return backend.part(range(num_items)).input, timing


def train_batches(backend: Backend, batches: list[Sequences], config: TrainingConfig) -> Timing:
    """Seconds of all epochs on one rank."""
    schedule = plan_schedule(config, len(batches))
    with timed() as timing:
        for place in places(config, len(batches)):
            prepared = backend.prepare(batches[place.step], place)
            backend.step(prepared, schedule.rate(place.global_step))
    return timing


def warm_up(dim: int, num_threads: int) -> None:
    """Compiles (or loads) the kernel, so that no run pays for it."""
    tokens = np.random.default_rng(0).integers(0, 50, (WARM_UP_ROWS, SENTENCE)).astype(np.int32)
    train_on_cpu(tokens, 50, dim, training_config(epochs=1, num_threads=num_threads))
