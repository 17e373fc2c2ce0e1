"""The best unseen items of many users, exactly or through the index.

Shapes: U = users, H = vectors a user, Q = U x H queries, K = length of a list.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.history_context import NO_CONTEXT, HistoryContext
from recspark.evaluate.lists import NO_ITEM, FloatArray, Ranked, blocks, concatenate, keep_unseen
from recspark.evaluate.ragged import IntArray, Ragged
from recspark.index.item_vectors import ItemVectors
from recspark.index.topk import largest_k
from recspark.retrieval.rerank import Reranker
from recspark.retrieval.user_encoder import MeanEncoder, UserEncoder

BLOCK_CELLS = 1 << 21
"""Places of fetched lists held at a time."""


class Searcher(Protocol):
    """What a sharded index offers."""

    def search(
        self, queries: FloatArray, k: int, allowed: NDArray[np.integer] | None = None
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """(ids [Q, k], -1 padded; scores [Q, k]) as sim + bias; of ``allowed`` item_idx only, where given."""


def recommend(
    vectors: ItemVectors,
    history: Ragged,
    masked: Ragged,
    k: int,
    index: Searcher | None = None,
    encoder: UserEncoder | None = None,
    user_idx: IntArray | None = None,
    allowed: NDArray[np.integer] | None = None,
    context: HistoryContext = NO_CONTEXT,
    reranker: Reranker | None = None,
) -> Ranked:
    """Each user's k best items (item_idx) that are not masked, from histories of item_idx; one row a user.

    Users are told by ``encoder``, by the mean of their items' vectors without one; of several vectors the best counts.
    ``context`` has what the model reads of events beside items.
    ``allowed`` are the only item_idx that may be listed, all by default. With a ``reranker`` its number of candidates
    (k, where that is more) are retrieved, and the k that it puts first are listed; scores are then its own.
    """
    users = (encoder or MeanEncoder(vectors)).encode(history, user_idx, context)
    users_UHD = users[:, None, :] if users.ndim == 2 else users
    num_vectors = users_UHD.shape[1]
    queries = np.ascontiguousarray(users_UHD.reshape(-1, users_UHD.shape[2]))
    each = masked if num_vectors == 1 else masked.take(np.repeat(np.arange(len(masked)), num_vectors))
    depth = max(k, reranker.num_candidates) if reranker else k
    found = _search(vectors, queries, depth, each, index, allowed)
    is_lost = np.logical_not(queries.any(axis=1))
    if num_vectors > 1:
        found = _merge_best(found, is_lost, num_vectors, depth)
    # A zero vector has no direction to look in: users without any other get the highest bias.
    lost = np.flatnonzero(is_lost.reshape(-1, num_vectors).all(axis=1))
    if len(lost):
        by_bias = rank_by_bias(vectors, masked.take(lost), depth, allowed)
        found.ids[lost], found.scores[lost] = by_bias.ids, by_bias.scores
    return reranker.rerank(found, users_UHD[:, 0], history, k) if reranker else found


def search_index(
    index: Searcher, queries_QD: FloatArray, k: int, masked: Ragged, num_items: int,
    allowed: NDArray[np.integer] | None = None,
) -> Ranked:  # fmt: skip
    """Each query's k best unmasked items through the index.

    k + (masked items) are fetched, so that k survive the mask: an index searches on until it has as many. Queries go in
    blocks of similar numbers of masked items, so that one long history does not make all searches long.
    """
    ids = np.full((len(queries_QD), k), NO_ITEM, dtype=np.int32)
    scores = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    num_masked = masked.lengths
    order = np.argsort(-num_masked, kind="stable")
    only = {} if allowed is None else {"allowed": allowed}
    start = 0
    while start < len(order):
        fetch = min(k + int(num_masked[order[start]]), num_items)
        rows = order[start : start + max(1, BLOCK_CELLS // fetch)]
        start += len(rows)
        found = keep_unseen(*index.search(queries_QD[rows], fetch, **only), masked.take(rows), k)
        ids[rows], scores[rows] = found.ids, found.scores
    return Ranked(ids, scores)


def rank_by_bias(vectors: ItemVectors, masked: Ragged, k: int, allowed: NDArray[np.integer] | None = None) -> Ranked:
    """The k unmasked items of the highest bias for each row: what a query without direction scores items by.

    One list is ranked, long enough for k to survive any mask; ties go to the smaller item_idx.
    """
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(np.isin(vectors.item_idx, allowed))
    rows = rows[np.argsort(-vectors.bias[rows], kind="stable")][: k + int(masked.lengths.max(initial=0))]
    ids, scores = vectors.item_idx[rows], vectors.bias[rows]
    if not len(rows):
        ids, scores = np.array([NO_ITEM]), np.array([-np.inf], np.float32)
    parts = []
    for start, stop in blocks(len(masked), max(1, BLOCK_CELLS // len(ids))):
        shape = (stop - start, len(ids))
        lists = np.broadcast_to(ids, shape), np.broadcast_to(scores, shape)
        parts.append(keep_unseen(*lists, masked.block(start, stop), k))
    return concatenate(parts, k)


def _search(
    vectors: ItemVectors, queries_QD: FloatArray, k: int, masked: Ragged, index: Searcher | None,
    allowed: NDArray[np.integer] | None,
) -> Ranked:  # fmt: skip
    if index is not None:
        return search_index(index, queries_QD, k, masked, len(vectors), allowed)
    from recspark.retrieval.exact import search_exact  # with numba, which a reader of releases does without

    if allowed is not None:
        vectors = vectors.take(np.flatnonzero(np.isin(vectors.item_idx, allowed)))
    return search_exact(vectors, queries_QD, k, masked)


def _merge_best(found: Ranked, is_lost: NDArray[np.bool_], num_vectors: int, k: int) -> Ranked:
    """One list a user from the lists of all his vectors: an item has the best of its scores."""
    width = num_vectors * found.ids.shape[1]
    scores = np.where(is_lost[:, None] | (found.ids == NO_ITEM), np.float32(-np.inf), found.scores)
    ids_UF, scores_UF = found.ids.reshape(-1, width).astype(np.int64), scores.reshape(-1, width)
    order = np.lexsort((-scores_UF, ids_UF), axis=-1)
    ids_UF, scores_UF = np.take_along_axis(ids_UF, order, axis=1), np.take_along_axis(scores_UF, order, axis=1)
    is_again = np.zeros(ids_UF.shape, np.bool_)
    is_again[:, 1:] = ids_UF[:, 1:] == ids_UF[:, :-1]
    is_out = is_again | (scores_UF == -np.inf)
    best, ids = largest_k(np.where(is_out, np.float32(-np.inf), scores_UF), np.where(is_out, NO_ITEM, ids_UF), k)
    return Ranked(ids.astype(np.int32), best)
