"""A table's rows in a checkpoint: every rank writes and reads its own, in position order, on any number of ranks."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from recspark.training.world import World


def save_rows(state: Mapping[str, Tensor], num_rows: int, folder: str, world: World) -> None:
    """Writes this rank's part of tensors of ``num_rows`` rows by torch's distributed checkpoint. Collective."""
    shared = {name: _as_global(tensor.cpu(), num_rows, world) for name, tensor in state.items()}
    with _quiet_alone():
        save_distributed(shared, checkpoint_id=folder, no_dist=world.world_size == 1)


def load_rows(state: Mapping[str, Tensor], num_rows: int, folder: str, world: World) -> None:
    """Reads this rank's rows into ``state``, whatever number of ranks wrote them. Collective."""
    read = {name: torch.empty_like(tensor, device="cpu") for name, tensor in state.items()}
    shared = {name: _as_global(tensor, num_rows, world) for name, tensor in read.items()}
    with _quiet_alone():
        load_distributed(shared, checkpoint_id=folder, no_dist=world.world_size == 1)
    for name, tensor in state.items():
        tensor.copy_(read[name])


def _as_global(local: Tensor, num_rows: int, world: World) -> Any:
    """This rank's rows as the part of the whole table that they are, so that a checkpoint can be cut anew."""
    if world.world_size == 1:
        return local
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (world.world_size,))
    shape = torch.Size((num_rows, *local.shape[1:]))
    stride = (1,) if local.dim() == 1 else (shape[1], 1)
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


@contextmanager
def _quiet_alone() -> Iterator[None]:
    """Without torch's warning that one process has no process group, which is what we want."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield
