# mypy: warn-return-any=False
"""Support of given pairs, counted the slow and plain way. Calls no other kernel: numba sees an edit of it by itself."""

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def count_support(
    indptr: Any, items: Any, max_items: int, window: int, row_of: Any, row_ptr: Any, dst: Any, seen_in: Any,
    seen_at: Any, counted_in: Any, first_unit: int, counts: Any,
) -> None:  # fmt: skip
    """Adds to ``counts`` of each edge the units that hold both of its items at most ``window`` places apart.

    Units are rows of (``indptr``, ``items``), cut to their newest ``max_items``. The edges of item v are
    ``row_ptr[row_of[v]] .. row_ptr[row_of[v] + 1] - 1``, their other ends in ``dst``; ``row_of`` is -1 for other items.
    ``seen_in``, ``seen_at`` int64 [V] and ``counted_in`` int64 [E] start at -1 and go from call to call, as
    ``first_unit``, the number of units before, does.
    """
    for unit in range(len(indptr) - 1):
        number = first_unit + unit
        start, stop = max(indptr[unit], indptr[unit + 1] - max_items), indptr[unit + 1]
        # Once forwards, once backwards: the other item is then always one that has been passed.
        for sweep in range(2):
            mark = 2 * number + sweep
            for step in range(stop - start):
                place = start + step if sweep == 0 else stop - 1 - step
                item = items[place]
                row = row_of[item]
                if row >= 0:
                    for edge in range(row_ptr[row], row_ptr[row + 1]):
                        other = dst[edge]
                        is_near = seen_in[other] == mark and np.abs(place - seen_at[other]) <= window
                        if is_near and counted_in[edge] != number:
                            counted_in[edge] = number
                            counts[edge] += 1
                seen_in[item] = mark
                seen_at[item] = place
