"""Products of users x items matrices, item by item: N x N results that are never held more than they must be.

Shapes: U = users, N = items.
"""

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.errors import SetupError
from recspark.evaluate.top_k import blocks
from recspark.memory import free_memory_bytes, gib

CELL_BYTES = 12
"""A value (float64) and its column (int32)."""
BLOCK_BYTES = 256 << 20
"""What a block of rows takes at most."""


def scale(left_N: NDArray[np.float64], matrix: sp.csr_array, right_N: NDArray[np.float64]) -> sp.csr_array:
    """diag(left) @ matrix @ diag(right)."""
    return sp.csr_array(sp.diags_array(left_N) @ matrix @ sp.diags_array(right_N))


def power_of_counts(counts: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """count^exponent, 0 where nothing was counted."""
    return np.where(counts > 0, np.maximum(counts, 1.0) ** exponent, 0.0)


def multiply_rows(left_NU: sp.csr_array, right_UN: sp.csr_array) -> Iterator[tuple[int, sp.csr_array]]:
    """(first row, rows) of left @ right without its diagonal, in blocks of rows that fit BLOCK_BYTES."""
    num_items = left_NU.shape[0]
    for start, stop in blocks(num_items, max(1, BLOCK_BYTES // (CELL_BYTES * max(num_items, 1)))):
        rows = (left_NU[start:stop] @ right_UN).tocoo()
        off = rows.col != rows.row + start
        kept = rows.data[off], (rows.row[off], rows.col[off])
        yield start, sp.csr_array(kept, shape=rows.shape)


def keep_top(rows: sp.csr_array, num_kept: int) -> sp.csr_array:
    """Each row's largest values; ties go to the smaller column."""
    lengths = np.diff(rows.indptr)
    row = np.repeat(np.arange(rows.shape[0]), lengths)
    order = np.lexsort((rows.indices, -rows.data, row))
    order = order[np.arange(rows.nnz) - np.repeat(rows.indptr[:-1], lengths) < num_kept]
    return sp.csr_array((rows.data[order], (row[order], rows.indices[order])), shape=rows.shape)


def check_pair_memory(
    users_UN: sp.csr_array, bytes_a_pair: int, what: str, advice: str, num_kept: int | None = None
) -> None:
    """Checks that all pairs of items of a user, at most (and ``num_kept`` an item), fit the memory that is free.

    Raises: SetupError with what is needed and what to do.
    """
    num_items = float(users_UN.shape[1])
    num_pairs = min(float(np.square(np.diff(users_UN.indptr), dtype=np.float64).sum()), num_items**2)
    if num_kept is not None:
        num_pairs = min(num_pairs, num_items * num_kept)
    needed, free = bytes_a_pair * num_pairs + BLOCK_BYTES, free_memory_bytes()
    if needed > free:
        raise SetupError(
            f"{what}: {num_pairs:,.0f} pairs of items may need {gib(needed)}, {gib(free)} are free; {advice}"
        )
