"""A user as a vector: the mean of the unit query-side vectors of a history's events.

    u = (1 / |h|) sum_{i in h} q_i / |q_i|        q_i = coalesce(query_vector, vector) of item i

The same formula as the trainer's `user_embeddings`: repeats count as often as they occur, items without a vector are
left out (of |h| too). A history without a known item gives the zero vector, which scores every item by its bias alone.
"""

import numpy as np
import scipy.sparse as sp

from recspark.evaluate.ragged import Ragged
from recspark.evaluate.top_k import FloatArray
from recspark.index.item_vectors import ItemVectors


def build_user_vectors(vectors: ItemVectors, history: Ragged) -> FloatArray:
    """[U, D] from histories of item_idx, one row a user."""
    rows = vectors.rows_of(history.values)
    known = history.where(rows >= 0)
    rows = rows[rows >= 0]
    weights = np.repeat(1.0 / np.maximum(known.lengths, 1), known.lengths).astype(np.float32)
    average_UM = sp.csr_array((weights, rows, known.offsets), shape=(len(known), len(vectors)))
    return np.asarray(average_UM @ vectors.unit_queries, dtype=np.float32)
