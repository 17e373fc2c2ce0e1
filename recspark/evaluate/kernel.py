"""Top k of each row by a heap under a total order: score descending, then the smaller id."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def push_rows(scores_BN: NDArray[Any], first_id: int, heap_scores_BK: NDArray[Any], heap_ids_BK: NDArray[Any]) -> None:
    """Adds columns ``first_id ...`` to the heaps in place; call with ascending ``first_id``.

    A heap's root is its worst entry: lowest score, among equals the largest id. Columns come in ascending id, so a
    newcomer that equals the root always loses and one comparison rejects nearly every column. NaN and -inf never enter.
    """
    num_rows, num_columns = scores_BN.shape
    k = heap_scores_BK.shape[1]
    for row in range(num_rows):
        heap_scores = heap_scores_BK[row]
        heap_ids = heap_ids_BK[row]
        for column in range(num_columns):
            score = scores_BN[row, column]
            if not score > heap_scores[0]:
                continue
            new_id = first_id + column
            place = 0
            while True:  # sift the newcomer down past every worse child
                child = 2 * place + 1
                if child >= k:
                    break
                right = child + 1
                if right < k and (
                    heap_scores[right] < heap_scores[child]
                    or (heap_scores[right] == heap_scores[child] and heap_ids[right] > heap_ids[child])
                ):
                    child = right
                if heap_scores[child] > score or (heap_scores[child] == score and heap_ids[child] < new_id):
                    break
                heap_scores[place] = heap_scores[child]
                heap_ids[place] = heap_ids[child]
                place = child
            heap_scores[place] = score
            heap_ids[place] = new_id


EMPTY_ID = np.int32(2**31 - 1)
"""Id of a heap's empty entry (score -inf): worse than any other."""
