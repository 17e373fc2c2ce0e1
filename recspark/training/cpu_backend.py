"""The numba kernel behind the trainer's `Backend`: one process, all cores, no torch.

Repeats to the bit with one thread; with more, threads update rows without locks.
"""

import os

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from recspark.config.schema import TrainingConfig
from recspark.training.backend import CPU
from recspark.training.batches import Place
from recspark.training.cpu_kernel import KernelState, init_state, train_batch
from recspark.training.negatives import NoiseDistribution
from recspark.training.sentences import check_items
from recspark.training.sequence_files import Sequences
from recspark.training.tables import SkipGramTables

_FILE = "state.safetensors"


class CpuBackend:
    """Skip-gram by `cpu_kernel`."""

    name = CPU

    def __init__(
        self, dim: int, noise: NoiseDistribution, keep: NDArray[np.float32], config: TrainingConfig, seed: int
    ) -> None:
        self._noise, self._keep, self._config, self._seed = noise, keep, config, seed
        self._state = init_state(len(keep), dim, config.init_scale, seed)
        self._num_threads = config.num_threads or os.cpu_count() or 1
        self._loss, self._pairs = 0.0, 0

    def prepare(self, batch: Sequences, place: Place) -> tuple[Sequences, Place]:
        """The batch, after a check of its items."""
        check_items(batch.values, len(self._keep))
        return batch, place

    def step(self, prepared: tuple[Sequences, Place], learning_rate: float) -> None:
        """Learns from a global batch."""
        batch, place = prepared
        loss, pairs = train_batch(
            self._state, batch, self._noise, self._keep, self._config, learning_rate, self._seed,
            place.epoch, place.step, self._num_threads,
        )  # fmt: skip
        self._loss += loss
        self._pairs += pairs

    def take_loss(self) -> tuple[float, int]:
        """(loss sum, pairs) since the last call."""
        taken = self._loss, self._pairs
        self._loss, self._pairs = 0.0, 0
        return taken

    def is_finite(self) -> bool:
        """Whether the optimizer state is free of NaN and infinity; any such gradient would show there."""
        return bool(np.isfinite(self._state.input_squares.sum() + self._state.output_squares.sum()))

    def save(self, folder: str) -> None:
        """Writes all four arrays into one safetensors file."""
        save_file({name: getattr(self._state, name) for name in KernelState.__dataclass_fields__}, f"{folder}/{_FILE}")

    def load(self, folder: str) -> None:
        """Reads what `save` wrote."""
        for name, array in load_file(f"{folder}/{_FILE}").items():
            getattr(self._state, name)[...] = array

    def part(self, items: range) -> SkipGramTables:
        """Rows of the model as it stands."""
        state, rows = self._state, slice(items.start, items.stop)
        return SkipGramTables(state.input_vectors[rows], state.output_vectors[rows], state.input_squares[rows] > 0)
