"""A trained skip-gram as plain arrays in item order: what every backend yields and the export reads."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SkipGramTables:
    """``input`` and ``output`` float32 [V, dim]; ``is_trained`` bool [V]: the input vector has got a gradient.

    ``input_squares`` and ``output_squares`` float32 [V], the state of row-wise Adagrad, are what a later training needs
    to go on from here; None for tables that were not learned by it.
    """

    input: NDArray[np.float32]
    output: NDArray[np.float32]
    is_trained: NDArray[np.bool_]
    input_squares: NDArray[np.float32] | None = None
    output_squares: NDArray[np.float32] | None = None
