"""Skip-gram with negative sampling on a CPU (in work: signatures)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.config.schema import TrainingConfig
from recspark.training.data import Sequences
from recspark.training.init import init_rows
from recspark.training.negatives import NoiseDistribution


@dataclass(frozen=True)
class KernelState:
    """Both tables and their row-wise Adagrad state; float32, C-contiguous, changed in place."""

    input_vectors: NDArray[np.float32]
    output_vectors: NDArray[np.float32]
    input_squares: NDArray[np.float32]
    output_squares: NDArray[np.float32]


def init_state(num_items: int, dim: int, init_scale: float, seed: int) -> KernelState:
    """Fresh tables: input rows by `init_rows`, output rows and Adagrad state zero."""
    return KernelState(
        input_vectors=init_rows(np.arange(num_items), dim, init_scale, seed),
        output_vectors=np.zeros((num_items, dim), np.float32),
        input_squares=np.zeros(num_items, np.float32),
        output_squares=np.zeros(num_items, np.float32),
    )


def train_batch(
    state: KernelState,
    batch: Sequences,
    noise: NoiseDistribution,
    keep: NDArray[np.float32],
    config: TrainingConfig,
    learning_rate: float,
    seed: int,
    epoch: int,
    step: int,
    num_threads: int,
) -> tuple[float, int]:
    """(loss sum, pairs) of one global batch; changes ``state`` in place."""
    raise NotImplementedError
