"""The best unseen items of many users, exactly or through the index."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import Ragged
from recspark.evaluate.top_k import FloatArray, Ranked, keep_unseen
from recspark.index.item_vectors import ItemVectors
from recspark.retrieval.exact import search_exact
from recspark.retrieval.user_vectors import build_user_vectors

BLOCK_CELLS = 1 << 21
"""Places of fetched lists held at a time."""


class Searcher(Protocol):
    """What a sharded index offers."""

    def search(self, queries: FloatArray, k: int) -> tuple[NDArray[np.int64], FloatArray]:
        """(ids [Q, k], -1 padded; scores [Q, k]) as sim + bias."""


def recommend(vectors: ItemVectors, history: Ragged, masked: Ragged, k: int, index: Searcher | None = None) -> Ranked:
    """Each user's k best items (item_idx) that are not masked, from histories of item_idx; one row a user."""
    queries_UD = build_user_vectors(vectors, history)
    if index is None:
        return search_exact(vectors, queries_UD, k, masked)
    found = search_index(index, queries_UD, k, masked, len(vectors))
    # A zero vector has no direction to look in: such users get what exact search gives, the highest bias.
    lost = np.flatnonzero(~queries_UD.any(axis=1))
    if len(lost):
        exact = search_exact(vectors, queries_UD[lost], k, masked.take(lost))
        found.ids[lost], found.scores[lost] = exact.ids, exact.scores
    return found


def search_index(index: Searcher, queries_QD: FloatArray, k: int, masked: Ragged, num_items: int) -> Ranked:
    """Each query's k best unmasked items through the index.

    k + (masked items) are fetched, so that k survive the mask. Queries go in blocks of similar numbers of masked items,
    so that one long history does not make all searches long.
    """
    ids = np.full((len(queries_QD), k), -1, dtype=np.int32)
    scores = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    num_masked = masked.lengths
    order = np.argsort(-num_masked, kind="stable")
    start = 0
    while start < len(order):
        fetch = min(k + int(num_masked[order[start]]), num_items)
        rows = order[start : start + max(1, BLOCK_CELLS // fetch)]
        start += len(rows)
        found = keep_unseen(*index.search(queries_QD[rows], fetch), masked.take(rows), k)
        ids[rows], scores[rows] = found.ids, found.scores
    return Ranked(ids, scores)
