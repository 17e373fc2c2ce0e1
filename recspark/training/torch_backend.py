"""Skip-gram in torch behind the trainer's `Backend`: any number of ranks, CPU (gloo) or CUDA (NCCL).

A step scores every pair of the global batch and its negatives, which all ranks share, and updates each row once, at
its owner: 1, 2 and 4 ranks learn the same up to the order of sums. Not yet run on CUDA.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from recspark.config.schema import TrainingConfig
from recspark.models.sharded_embedding import look_up
from recspark.models.skip_gram import SkipGram
from recspark.training.backend import TORCH
from recspark.training.batches import Place, SkipGramBatch, SkipGramBatches
from recspark.training.init import init_rows
from recspark.training.losses import MaskedNegatives, negative_gradients, positive_gradients, sum_by_row
from recspark.training.negatives import NoiseDistribution
from recspark.training.optim import RowwiseAdagrad
from recspark.training.sequence_files import Sequences
from recspark.training.staging import stage
from recspark.training.tables import SkipGramTables
from recspark.training.world import World

# A CPU scores as many rows at a time as its cache holds, a GPU as many as keep it busy.
_CPU_CHUNK_ROWS, _CUDA_CHUNK_ROWS = 512, 65536

_PART_ROWS = 1 << 20
"""Rows that are fetched from their owners at once."""


class TorchBackend:
    """Skip-gram over row-sharded tables."""

    name = TORCH

    def __init__(
        self,
        dim: int,
        noise: NoiseDistribution,
        keep: NDArray[np.float32],
        config: TrainingConfig,
        seed: int,
        world: World,
        num_threads: int,
    ) -> None:
        torch.set_num_threads(num_threads)
        if world.device.startswith("cuda"):
            torch.set_float32_matmul_precision(config.matmul_precision)
        self._config, self._world = config, world
        self._batches = SkipGramBatches(noise, keep, config, seed)
        initial_rows = partial(init_rows, dim=dim, init_scale=config.init_scale, seed=seed)
        self._model = SkipGram(len(keep), dim, world, initial_rows)
        self._loss = torch.zeros((), dtype=torch.float64, device=world.device)
        self._pairs = 0

    def prepare(self, batch: Sequences, place: Place) -> SkipGramBatch:
        """Tokens, windows, rows and negatives of a batch."""
        return stage(self._batches.prepare(batch, place), self._world.device)

    def step(self, prepared: SkipGramBatch, learning_rate: float) -> None:
        """Looks up the batch's rows, finds their gradients, sends those to the owners. Collective."""
        route = self._model.route(prepared.rows)
        input_rows, output_rows = self._model.lookup(route)
        loss, input_gradient, output_gradient = skip_gram_gradients(
            prepared, input_rows, output_rows, self._config.window
        )
        self._model.apply_gradient(route, input_gradient, output_gradient, RowwiseAdagrad(learning_rate).update)
        self._loss += loss
        self._pairs += prepared.num_pairs

    def take_loss(self) -> tuple[float, int]:
        """(loss sum, pairs) of this rank since the last call; waits for the device."""
        taken = float(self._loss), self._pairs
        self._loss.zero_()
        self._pairs = 0
        return taken

    def is_finite(self) -> bool:
        """Whether this rank's optimizer state is free of NaN and infinity."""
        return self._model.is_finite()

    def save(self, folder: str) -> None:
        """Writes this rank's rows by torch's distributed checkpoint, in position order. Collective."""
        state = {name: self._as_global(tensor.cpu()) for name, tensor in self._model.state().items()}
        with _quiet_alone():
            save_distributed(state, checkpoint_id=folder, no_dist=self._world.world_size == 1)

    def load(self, folder: str) -> None:
        """Reads this rank's rows, whatever number of ranks wrote them. Collective."""
        own = self._model.state()
        read = {name: torch.empty_like(tensor, device="cpu") for name, tensor in own.items()}
        state = {name: self._as_global(tensor) for name, tensor in read.items()}
        with _quiet_alone():
            load_distributed(state, checkpoint_id=folder, no_dist=self._world.world_size == 1)
        for name, tensor in own.items():
            tensor.copy_(read[name])

    def part(self, items: range) -> SkipGramTables:
        """The model's rows of these items in their order, from the ranks that hold them. Collective."""
        ends = range(items.start, items.stop, _PART_ROWS)
        num_pieces = max(int(n) for (n,) in self._world.gather_numbers([len(ends)]))
        pieces = []
        for piece in range(num_pieces):
            start = min(items.start + piece * _PART_ROWS, items.stop)
            ids = np.arange(start, min(start + _PART_ROWS, items.stop))
            route = self._model.route(ids)
            pieces.append({n: look_up(t, route, self._world).cpu() for n, t in self._model.state().items()})
        own = {n: t[:0].cpu() for n, t in self._model.state().items()}  # where no rank asks for anything
        rows = {n: torch.cat([own[n], *(piece[n] for piece in pieces)]).numpy() for n in own}
        return SkipGramTables(rows["input_vectors"], rows["output_vectors"], rows["input_squares"] > 0)

    def _as_global(self, local: Tensor) -> Any:
        """This rank's rows as the part of the whole table that they are, so that a checkpoint can be cut anew."""
        if self._world.world_size == 1:
            return local
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard

        mesh = init_device_mesh("cpu", (self._world.world_size,))
        shape = torch.Size((self._model.layout.num_rows, *local.shape[1:]))
        stride = (1,) if local.dim() == 1 else (shape[1], 1)
        return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


@contextmanager
def _quiet_alone() -> Iterator[None]:
    """Without torch's warning that one process has no process group, which is what we want."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def skip_gram_gradients(
    batch: SkipGramBatch, input_rows: Tensor, output_rows: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, gradients of the batch's input and output rows [R, dim]) of one step, summed over its pairs.

    A pair costs -log sigmoid(x . y) of its positive plus num_negatives times the mean of -log sigmoid(-x . z) over the
    shared negatives z that are no positive of the same window.
    """
    device = input_rows.device
    input_gradient, output_gradient = torch.zeros_like(input_rows), torch.zeros_like(output_rows)
    if batch.num_pairs == 0:
        return torch.zeros((), dtype=torch.float64, device=device), input_gradient, output_gradient

    def put(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    num_used, token_row, negative_row = batch.num_token_rows, put(batch.token_row), put(batch.negative_row)
    positive_loss, input_TD, output_TD = positive_gradients(
        input_rows.index_select(0, token_row),
        output_rows.index_select(0, token_row),
        put(batch.sentence),
        put(batch.token_window),
        window,
    )
    masked = MaskedNegatives(put(batch.masked_row), put(batch.masked_negative), put(batch.masked_pairs))
    negative_loss, input_UD, negative_ND = negative_gradients(
        input_rows[:num_used],
        output_rows.index_select(0, negative_row),
        put(batch.row_pairs),
        put(batch.negative_weight),
        masked,
        chunk_rows=_CUDA_CHUNK_ROWS if input_rows.is_cuda else _CPU_CHUNK_ROWS,
    )
    token_order, row_starts = put(batch.token_order), put(batch.row_starts)
    torch.add(input_UD, sum_by_row(input_TD, token_order, row_starts), out=input_gradient[:num_used])
    output_gradient[:num_used] = sum_by_row(output_TD, token_order, row_starts)
    output_gradient.index_add_(0, negative_row, negative_ND)
    return positive_loss + negative_loss, input_gradient, output_gradient
