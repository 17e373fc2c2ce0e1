"""The best unseen items of many users, exactly or through the index."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import IntArray, Ragged
from recspark.evaluate.top_k import NO_ITEM, FloatArray, Ranked, keep_unseen
from recspark.index.item_vectors import ItemVectors
from recspark.retrieval.exact import search_exact
from recspark.retrieval.user_encoder import MeanEncoder, UserEncoder

BLOCK_CELLS = 1 << 21
"""Places of fetched lists held at a time."""


class Searcher(Protocol):
    """What a sharded index offers."""

    def search(self, queries: FloatArray, k: int) -> tuple[NDArray[np.int64], FloatArray]:
        """(ids [Q, k], -1 padded; scores [Q, k]) as sim + bias."""


def recommend(
    vectors: ItemVectors, history: Ragged, masked: Ragged, k: int, index: Searcher | None = None,
    encoder: UserEncoder | None = None, user_idx: IntArray | None = None,
) -> Ranked:  # fmt: skip
    """Each user's k best items (item_idx) that are not masked, from histories of item_idx; one row a user.

    Users are told by ``encoder``, by the mean of their items' vectors without one.
    """
    queries = (encoder or MeanEncoder(vectors)).encode(history, user_idx)
    if queries.ndim == 2:
        return _search(vectors, queries, masked, k, index)
    return merge_interests([_search(vectors, queries[:, i], masked, k, index) for i in range(queries.shape[1])], k)


def merge_interests(lists: list[Ranked], k: int) -> Ranked:
    """The k best of several lists a user, an item by its highest score: exactly those of the highest scores, as an item
    among these k is among the k of its own interest.
    """
    ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*((r.ids, r.scores) for r in lists), strict=True))
    order = np.lexsort((ids, -scores), axis=1)
    ids, scores = np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)
    # Of an item's places, which need not follow each other, the first stays.
    by_id = np.argsort(ids, axis=1, kind="stable")
    sorted_ids = np.take_along_axis(ids, by_id, axis=1)
    is_repeat = np.zeros_like(ids, dtype=np.bool_)
    np.put_along_axis(is_repeat, by_id[:, 1:], sorted_ids[:, 1:] == sorted_ids[:, :-1], axis=1)
    is_repeat |= ids < 0
    kept = np.argsort(is_repeat, axis=1, kind="stable")[:, :k]
    out = np.take_along_axis(is_repeat, kept, axis=1)
    found_ids = np.where(out, NO_ITEM, np.take_along_axis(ids, kept, axis=1))
    found_scores = np.where(out, -np.inf, np.take_along_axis(scores, kept, axis=1))
    return Ranked(found_ids.astype(np.int32), found_scores.astype(np.float32))


def _search(vectors: ItemVectors, queries_UD: FloatArray, masked: Ragged, k: int, index: Searcher | None) -> Ranked:
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
