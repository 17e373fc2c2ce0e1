"""The skip-gram family in torch behind the trainer's `Backend`: any number of ranks, CPU (gloo) or CUDA (NCCL).

A step scores every pair of the global batch and its negatives, which all ranks share, and updates each row once, at
its owner: 1, 2 and 4 ranks learn the same up to the order of sums.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from recspark.memory import keep_freed_memory
from recspark.models.sharded_embedding import RoutePlan, look_up
from recspark.models.skip_gram import SkipGram
from recspark.training.backend import TORCH
from recspark.training.batches import StepBatch, StepBatches
from recspark.training.gradients import find_gradients
from recspark.training.init import init_rows
from recspark.training.losses import LossSum
from recspark.training.objective import Objective, Place
from recspark.training.optim import RowwiseAdagrad
from recspark.training.sequence_files import Sequences
from recspark.training.sharded_state import load_rows, save_rows
from recspark.training.staging import stage
from recspark.training.tables import SkipGramTables
from recspark.training.warm_start import StartRows
from recspark.training.world import World

_PART_ROWS = 1 << 20
"""Rows that are fetched from their owners at once."""


class PreparedStep(NamedTuple):
    """A step's work, and the way to its rows as far as this rank knows it alone."""

    batch: StepBatch
    rows: RoutePlan


class TorchBackend:
    """The skip-gram family over row-sharded tables."""

    name = TORCH

    def __init__(
        self,
        dim: int,
        objective: Objective,
        world: World,
        num_threads: int,
    ) -> None:
        torch.set_num_threads(num_threads)
        config = objective.config
        if world.device.startswith("cuda"):
            torch.set_float32_matmul_precision(config.matmul_precision)
        else:
            keep_freed_memory()
        self._world, self._objective = world, objective
        self._batches = StepBatches(objective)
        initial_rows = partial(init_rows, dim=dim, init_scale=config.init_scale, seed=objective.seed)
        self._model = SkipGram(objective.num_items, dim, world, initial_rows)
        self._loss = LossSum(world.device)

    def start_from(self, start: StartRows) -> None:
        """Puts an earlier model's rows in the place of this rank's initial ones."""
        mine, num_items = self._model.layout.range_of(self._world.rank), self._model.num_items
        table_of, item = np.divmod(self._model.layout.ids(np.arange(mine.start, mine.stop)), num_items)
        state = self._model.state()
        for number, side in enumerate(("input_", "output_")):
            own = np.flatnonzero(table_of == number)
            places, rows = start.rows_of(item[own], side)
            for name, values in rows.items():
                tensor = state[name.removeprefix(side)]
                tensor[torch.from_numpy(own[places])] = torch.from_numpy(values).to(self._world.device)

    def prepare(self, batch: Sequences, place: Place) -> PreparedStep:
        """Tokens, windows, rows and negatives of a batch, and where the rows are."""
        found = self._batches.prepare(batch, place)
        prepared = PreparedStep(found, self._model.plan(found.tokens.items, found.outputs))
        return stage(prepared, self._world.device)

    def untrained_loss(self, batch: Sequences, place: Place) -> tuple[float, int]:
        """(loss sum, pairs) of this rank's part of a batch before anything is learned."""
        return self._objective.untrained_loss(batch, place)

    def step(self, prepared: PreparedStep, learning_rate: float) -> None:
        """Looks up the batch's rows, finds their gradients, sends those to the owners. Collective.

        One rank reads nothing back from its device, so that a GPU never waits for the next step's orders.
        """
        route = self._model.route(prepared.rows)
        loss, gradient = find_gradients(prepared.batch, self._model.lookup(route))
        self._model.apply_gradient(route, gradient, RowwiseAdagrad(learning_rate).update)
        self._loss.add(loss, prepared.batch.num_pairs)

    def take_loss(self) -> tuple[float, int]:
        """(loss sum, pairs) of this rank since the last call; waits for the device."""
        return self._loss.take()

    def is_finite(self) -> bool:
        """Whether this rank's optimizer state is free of NaN and infinity."""
        return self._model.is_finite()

    def save(self, folder: str) -> None:
        """Writes this rank's rows by torch's distributed checkpoint, in position order. Collective."""
        save_rows(self._model.state(), self._model.layout.num_rows, folder, self._world)

    def load(self, folder: str) -> None:
        """Reads this rank's rows, whatever number of ranks wrote them. Collective."""
        load_rows(self._model.state(), self._model.layout.num_rows, folder, self._world)

    def part(self, items: range) -> SkipGramTables:
        """The model's rows of these items in their order, from the ranks that hold them. Collective."""
        ends = range(items.start, items.stop, _PART_ROWS)
        num_pieces = max(int(n) for (n,) in self._world.gather_numbers([len(ends)]))
        pieces = []
        for piece in range(num_pieces):
            start = min(items.start + piece * _PART_ROWS, items.stop)
            ids = np.arange(start, min(start + _PART_ROWS, items.stop))
            route = self._model.route(self._model.plan(ids, ids))
            pieces.append([look_up(t, route, self._world).cpu().tensor_split(2) for t in self._model.state().values()])
        (inputs, outputs), (input_squares, output_squares) = (
            [torch.cat([tensor[:0].cpu(), *(piece[n][side] for piece in pieces)]).numpy() for side in (0, 1)]
            for n, tensor in enumerate(self._model.state().values())
        )
        return SkipGramTables(inputs, outputs, input_squares > 0, input_squares, output_squares)
