"""Batches on their way to a GPU: in page-locked memory, from where a copy runs beside the computation.

The thread that makes batches ahead also puts their arrays there; the step's own `to(device, non_blocking=True)` then
returns at once. torch keeps such memory until the copies out of it are done, also when the batch is dropped before.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

B = TypeVar("B")


def stage(batch: B, device: str) -> B:
    """The same batch, its arrays in page-locked memory where ``device`` is a GPU.

    Arrays may lie anywhere in dataclasses and tuples.
    """
    return batch if device in ("cpu", "meta") else _stage(batch)


def _stage(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return pin(value)
    if isinstance(value, tuple):
        parts = [_stage(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _stage(getattr(value, field.name)) for field in fields(value)})
    return value


def pin(array: NDArray[Any]) -> NDArray[Any]:
    """A copy in page-locked memory, which lives as long as the array."""
    dtype = torch.from_numpy(array[:0]).dtype
    pinned: NDArray[Any] = torch.empty(array.shape, dtype=dtype, pin_memory=True).numpy()
    pinned[...] = array
    return pinned
