"""The numba kernel behind the trainer's `Backend`: one process, all cores, no torch.

Repeats to the bit with one thread; with more, threads update rows without locks.
"""

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from recspark.cpus import count_cpus
from recspark.training.backend import CPU
from recspark.training.cpu_kernel import init_state, train_batch
from recspark.training.cpu_rows import places_of
from recspark.training.objective import Objective, Place
from recspark.training.sentences import check_items
from recspark.training.sequence_files import Sequences
from recspark.training.tables import SkipGramTables
from recspark.training.warm_start import StartRows

_FILE = "state.safetensors"


class CpuBackend:
    """The skip-gram family by `cpu_kernel`."""

    name = CPU

    def __init__(self, dim: int, objective: Objective) -> None:
        self._objective = objective
        self._state = init_state(objective.num_items, dim, objective.config.init_scale, objective.seed)
        self._num_threads = objective.config.num_threads or count_cpus()
        self._loss, self._pairs = 0.0, 0

    def start_from(self, start: StartRows) -> None:
        """Puts an earlier model's rows in the place of the initial ones."""
        items, rows = start.rows_of(np.arange(self._objective.num_items))
        for name, values in rows.items():
            self._put(name, items, values)

    def prepare(self, batch: Sequences, place: Place) -> tuple[Sequences, Place]:
        """The batch, after a check of its items."""
        check_items(batch.values, self._objective.num_items)
        return batch, place

    def untrained_loss(self, batch: Sequences, place: Place) -> tuple[float, int]:
        """(loss sum, pairs) of this rank's part of a batch before anything is learned."""
        return self._objective.untrained_loss(batch, place)

    def step(self, prepared: tuple[Sequences, Place], learning_rate: float) -> None:
        """Learns from a global batch."""
        batch, place = prepared
        loss, pairs = train_batch(self._state, batch, self._objective, learning_rate, place, self._num_threads)
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
        """Writes all four arrays, in the order of items, into one safetensors file."""
        items = np.arange(self._objective.num_items)
        sums = {name: self._sums(name, items) for name in ("input_squares", "output_squares")}
        save_file(self._state._asdict() | sums, f"{folder}/{_FILE}")

    def load(self, folder: str) -> None:
        """Reads what `save` wrote, one array at a time: at their largest these are half of what training holds."""
        with safe_open(f"{folder}/{_FILE}", framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  (no dictionary)
                self._put(name, np.arange(self._objective.num_items), file.get_tensor(name))

    def part(self, items: range) -> SkipGramTables:
        """Rows of the model as it stands."""
        state, rows, numbers = self._state, slice(items.start, items.stop), np.arange(items.start, items.stop)
        squares = self._sums("input_squares", numbers)
        return SkipGramTables(
            state.input_vectors[rows], state.output_vectors[rows], squares > 0, squares,
            self._sums("output_squares", numbers),
        )  # fmt: skip

    def _put(self, name: str, items: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        array = getattr(self._state, name)
        array[places_of(array, items) if array.ndim == 1 else items] = values

    def _sums(self, name: str, items: NDArray[np.int64]) -> NDArray[np.float32]:
        array = getattr(self._state, name)
        return np.asarray(array[places_of(array, items)])
