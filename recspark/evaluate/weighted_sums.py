"""Sums of vectors over histories, the same to the bit whoever stands beside a user."""

import numpy as np

from recspark.evaluate.lists import FloatArray
from recspark.evaluate.ragged import Ragged


def weighted_sums(vectors_MD: FloatArray, rows: Ragged, shares: FloatArray) -> FloatArray:
    """[U, D]: each user's sum of share x vector over his ``rows`` of ``vectors_MD``, in their order.

    Place by place for all users who have that many events, so that no more than [U, D] is gathered at a time.
    """
    lengths = rows.lengths
    order = np.argsort(-lengths, kind="stable")  # those who have a place come first
    starts, ascending = rows.offsets[:-1][order], np.sort(lengths)
    sums = np.zeros((len(lengths), vectors_MD.shape[1]), np.float32)
    for place in range(int(lengths.max(initial=0))):
        at = starts[: len(lengths) - np.searchsorted(ascending, place, side="right")] + place
        sums[: len(at)] += shares[at, None] * vectors_MD[rows.values[at]]
    users = np.empty_like(sums)
    users[order] = sums
    return users
