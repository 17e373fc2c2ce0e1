"""Item vectors out of linear algebra, as plain arrays in item order; like a skip-gram's, they have two sides."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.errors import DataError

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ItemFactors:
    """``input`` and ``output`` float32 [N, D], zeros but for ``is_known`` bool [N]; ``counts`` to report."""

    input: FloatArray
    output: FloatArray
    is_known: NDArray[np.bool_]
    counts: dict[str, Any]

    def read_out(self, readout: str) -> tuple[FloatArray, FloatArray]:
        """(query side, candidate side) that ``readout`` names; one and the same array where they are alike."""
        if readout == "input_output":
            return self.input, self.output
        one = {"input": self.input, "output": self.output, "sum": self.input + self.output}[readout]
        return one, one


def check_directions(name: str, skip: int, dim: int, power: float, power_name: str, num_items: int) -> None:
    """Checks that ``dim`` directions from ``skip`` on tell ``num_items`` items apart; ``name`` is a baseline's.

    Directions scaled by their weight (``power`` above 0) do, however many; unscaled, all say as much as the first.
    All n of them make any two items orthogonal, and above n / 2 the similarities are, but for the sign, those of the
    fewer and weaker directions left out.

    Raises: DataError.
    """
    edges = f"{num_items:,} items with an edge to another"
    if skip >= num_items:
        raise DataError(f"baselines.{name}.skip: {skip:,} directions skipped, but {edges} have no more; lower it")
    most = num_items // 2 - skip
    if power == 0 and dim > most:
        skipped = f" behind {skip:,} skipped (baselines.{name}.skip)" if skip else ""
        lower = f"model.embedding_dim to {most:,} or less" if most >= 2 else "model.embedding_dim"
        raise DataError(
            f"baselines.{name}: {dim:,} directions (model.embedding_dim){skipped}, but {edges}; unscaled, more than "
            f"half of all {num_items:,} directions tell no items apart. Lower {lower}"
            f"{f' or baselines.{name}.skip' if skip else ''}, or set baselines.{name}.{power_name} above 0"
        )


def pad_columns(vectors: NDArray[np.float64], dim: int) -> FloatArray:
    """float32 [N, dim]: zeros where the matrix has fewer than ``dim`` directions to give."""
    return np.pad(vectors.astype(np.float32), ((0, 0), (0, max(0, dim - vectors.shape[1]))))
