"""A user as a vector: the mean of the unit query-side vectors of a history's events, the last ones weighted.

    u = sum_{i in h} w_i q_i / |q_i| / sum_{i in h} w_i        q_i = coalesce(query_vector, vector) of item i
                                                               w_i = 1, or as the model's `history_weights` say

Under l2 the q_i keep their lengths. The same formula as the trainer's `user_embeddings`: repeats count as often as they
occur, items without a vector are left out (they take no place either). A history without a known item gives the zero
vector, which scores every item by its bias alone.
"""

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.lists import FloatArray
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import ItemVectors


def build_user_vectors(vectors: ItemVectors, history: Ragged) -> FloatArray:
    """[U, D] from histories of item_idx, one row a user, the newest event last."""
    counted, weights = vectors.history_weights.weigh(keep_known(vectors, history))
    totals = np.bincount(counted.row_of_value, weights, len(counted))
    shares = (weights * np.repeat(1.0 / np.maximum(totals, 1), counted.lengths)).astype(np.float32)
    return _weighted_sums(vectors.user_parts, vectors.rows_of(counted.values), shares, counted.offsets)


def keep_known(vectors: ItemVectors, history: Ragged) -> Ragged:
    """The events on items that have a vector."""
    return history.where(vectors.rows_of(history.values) >= 0)


def _weighted_sums(
    vectors_MD: FloatArray, rows: NDArray[np.int64], shares: FloatArray, offsets: NDArray[np.int64]
) -> FloatArray:
    """[U, D]: each user's sum of share x vector, in the order of his events, whoever stands beside him.

    Place by place for all users who have that many events, so that no more than [U, D] is gathered at a time.
    """
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")  # those who have a place come first
    starts, ascending = offsets[:-1][order], np.sort(lengths)
    sums = np.zeros((len(lengths), vectors_MD.shape[1]), np.float32)
    for place in range(int(lengths.max(initial=0))):
        at = starts[: len(lengths) - np.searchsorted(ascending, place, side="right")] + place
        sums[: len(at)] += shares[at, None] * vectors_MD[rows[at]]
    users = np.empty_like(sums)
    users[order] = sums
    return users
