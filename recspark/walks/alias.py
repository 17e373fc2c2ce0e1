"""Alias tables: draw from any discrete distribution in constant time, by one random number.

Column i of a table is a coin: with probability ``threshold[i]`` it yields i, else ``alias[i]``; columns are drawn
uniformly. [0.5, 0.25, 0.25] becomes thresholds [1, .75, .75] with aliases [0, 0, 0].

Source: Walker 1977; Vose 1991 ("A linear algorithm for generating random numbers with a given distribution").
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.errors import DataError
from recspark.walks.rng import unit


def build_alias(probabilities: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(threshold, alias) of a distribution over 0..n-1; ``probabilities`` need not add up to 1.

    Raises: DataError when a probability is negative or no number, or when none is above 0.
    """
    weights = np.asarray(probabilities, dtype=np.float64)
    total = weights.sum()
    if weights.ndim != 1 or not np.isfinite(total) or total <= 0 or weights.min() < 0:
        raise DataError(
            f"alias table: probabilities must be a list of numbers >= 0 with a sum above 0, "
            f"got {weights.size} values from {weights.min(initial=np.inf)} to {weights.max(initial=-np.inf)}"
        )
    thresholds = weights * (weights.size / total)
    alias = np.empty(weights.size, np.int32)
    pair_columns(thresholds, alias, np.empty(weights.size, np.int32))
    return thresholds.astype(np.float32), alias


@njit(cache=True, nogil=True)
def pair_columns(scaled: NDArray[np.float64], alias: NDArray[np.int32], stack: NDArray[np.int32]) -> None:
    """Turns probabilities times n into thresholds, in place, and fills ``alias``; ``stack`` (n) is scratch.

    Columns below 1 wait at the left end of the stack, full ones at the right end: each column is in one of them.
    """
    n = len(scaled)
    low, high = 0, n
    for i in range(n):
        alias[i] = i
        if scaled[i] < 1.0:
            stack[low] = i
            low += 1
        else:
            high -= 1
            stack[high] = i
    while low > 0 and high < n:
        low -= 1
        small, large = stack[low], stack[high]
        alias[small] = large
        scaled[large] = (scaled[large] + scaled[small]) - 1.0
        if scaled[large] < 1.0:
            high += 1
            stack[low] = large
            low += 1
    for i in range(low):  # what rounding left over is full
        scaled[stack[i]] = 1.0
    for i in range(high, n):
        scaled[stack[i]] = 1.0


@njit(cache=True, nogil=True)
def draw_alias(threshold: NDArray[np.float32], alias: NDArray[np.int32], bits: np.uint64) -> int:
    """An index drawn from the table by 64 random bits: the upper end picks the column, the rest tosses its coin."""
    position = unit(bits) * len(threshold)
    column = int(position)
    return column if position - column < threshold[column] else alias[column]
