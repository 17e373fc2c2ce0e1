"""Item vectors out of linear algebra, as plain arrays in item order; like a skip-gram's, they have two sides."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def pad_columns(vectors: NDArray[np.float64], dim: int) -> FloatArray:
    """float32 [N, dim]: zeros where the matrix has fewer than ``dim`` directions to give."""
    return np.pad(vectors.astype(np.float32), ((0, 0), (0, max(0, dim - vectors.shape[1]))))
