# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""Rows of whole sums, before any score and pruning: out of the accumulator, and back into it to be scored.

sums {4: 2.0, 9: 3.0} of item 7   <->   dst [4, 9], sums [2.0, 3.0] (fixed point), counts [2, 3]
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.graph.kernel import PLAIN
from recspark.graph.top_n import add_row, select_row


class SumRows(NamedTuple):
    """Rows of sums, one after the other."""

    sizes: NDArray[np.int32]
    dst: NDArray[np.int32]
    sums: NDArray[np.int64]
    counts: NDArray[np.int32]


def new_sum_rows(num_rows: int, capacity: int) -> SumRows:
    """Room for ``capacity`` pairs of ``num_rows`` rows."""
    return SumRows(
        np.zeros(num_rows, np.int32),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int32),
    )


@njit(cache=True, nogil=True)
def take_row(item: int, num_touched: int, mode: int, row: Any, rows: Any, start: int) -> int:
    """Writes an item's pairs at ``start``, in no order, clears the row, and returns how many there are."""
    size = 0
    for n in range(num_touched):
        other = row.touched[n]
        count = row.counts[other]
        total = np.int64(count)
        row.counts[other] = 0
        if mode != PLAIN:
            total = row.sums[other]
            row.sums[other] = 0
        if other == item:
            continue
        rows.dst[start + size], rows.sums[start + size], rows.counts[start + size] = other, total, count
        size += 1
    return size


@njit(cache=True, nogil=True)
def take_rows(first: int, items: Any, ptr: Any, posting: Any, units: Any, pair: Any, row: Any, rows: Any) -> Any:
    """Sums of the local ``items`` from number ``first`` on, as far as ``rows`` surely holds them.

    Returns (number of the next item, pairs written); ``rows.sizes[n]`` is set for each item done.
    """
    used = 0
    for local in range(first, len(items)):
        if used + len(row.counts) > len(rows.dst):
            return local, used
        num_touched = add_row(items[local], posting[ptr[local] : ptr[local + 1]], units, pair, row)
        size = take_row(items[local], num_touched, pair.mode, row, rows, used)
        rows.sizes[local] = size
        used += size
    return len(items), used


@njit(cache=True, nogil=True)
def score_rows(first: int, items: Any, ptr: Any, dst: Any, pair: Any, rule: Any, row: Any, rows: Any) -> Any:
    """Best neighbours of ``items`` from number ``first`` on, from their sums ``dst`` (a `SumRows`, sizes unused).

    Returns (number of the next item, neighbours written), as `take_rows`.
    """
    used = 0
    room = min(rule.limit, len(row.counts))
    for number in range(first, len(items)):
        if used + room > len(rows.dst):
            return number, used
        num_touched = 0
        for place in range(ptr[number], ptr[number + 1]):
            other = dst.dst[place]
            row.touched[num_touched] = other
            row.counts[other] = dst.counts[place]
            if pair.mode != PLAIN:
                row.sums[other] = dst.sums[place]
            num_touched += 1
        size = select_row(items[number], num_touched, pair, rule, row, rows, used)
        rows.sizes[number] = size
        used += size
    return len(items), used
