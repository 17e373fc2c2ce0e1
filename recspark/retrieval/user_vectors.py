"""A user as a vector: the mean of the unit query-side vectors of a history's events, the last ones weighted.

    u = sum_{i in h} w_i q_i / |q_i| / sum_{i in h} w_i        q_i = coalesce(query_vector, vector) of item i
                                                               w_i = 1, or as the model's `history_weights` say

Under l2 the q_i keep their lengths. The same formula as the trainer's `user_embeddings`: repeats count as often as they
occur, items without a vector are left out (they take no place either). A history without a known item gives the zero
vector, which scores every item by its bias alone.
"""

import numpy as np

from recspark.evaluate.lists import FloatArray
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.weighted_sums import weighted_sums
from recspark.index.item_vectors import ItemVectors


def build_user_vectors(vectors: ItemVectors, history: Ragged) -> FloatArray:
    """[U, D] from histories of item_idx, one row a user, the newest event last."""
    counted, weights = vectors.history_weights.weigh(keep_known(vectors, history))
    totals = np.bincount(counted.row_of_value, weights, len(counted))
    shares = (weights * np.repeat(1.0 / np.maximum(totals, 1), counted.lengths)).astype(np.float32)
    return weighted_sums(
        vectors.user_parts, Ragged(counted.offsets, vectors.rows_of(counted.values).astype(np.int32)), shares
    )


def keep_known(vectors: ItemVectors, history: Ragged) -> Ragged:
    """The events on items that have a vector."""
    return history.where(vectors.rows_of(history.values) >= 0)
