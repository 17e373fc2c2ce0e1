"""Starting vectors: row i depends on (seed, i) alone, so a model does not depend on how its rows are spread."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.training.rng import stream_key, to_unit
from recspark.walks.rng import draw


def init_rows(rows: NDArray[np.int64], dim: int, init_scale: float, seed: int) -> NDArray[np.float32]:
    """Rows of an input table, uniform in +- ``init_scale / sqrt(dim)``: float32 [len(rows), dim].

    Both training paths start from it; output tables start at zero.
    """
    out = np.empty((len(rows), dim), np.float32)
    _fill_rows(np.ascontiguousarray(rows, np.int64), np.float32(init_scale / np.sqrt(dim)), np.uint64(seed), out)
    return out


@njit(cache=True, nogil=True)
def _fill_rows(rows, half_width, seed, out):  # type: ignore[no-untyped-def]
    for r in range(len(rows)):
        key = stream_key(seed, 0, 0, rows[r])
        for d in range(out.shape[1]):
            out[r, d] = (to_unit(draw(key, np.uint64(d))) * np.float32(2) - np.float32(1)) * half_width
