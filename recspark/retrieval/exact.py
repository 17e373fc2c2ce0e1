"""Exact search: every item scored, in blocks of queries and items that fit the cache and a fixed memory budget."""

import numpy as np

from recspark.evaluate.lists import FloatArray, Ranked, blocks, concatenate
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.top_k import TopK, mask_scores
from recspark.index.item_vectors import ItemVectors

BLOCK_QUERIES = 512
BLOCK_ITEMS = 16_384
"""A block of scores takes 32 MiB."""


def search_exact(vectors: ItemVectors, queries_QD: FloatArray, k: int, masked: Ragged | None = None) -> Ranked:
    """Each query's k best items by sim + bias, as item_idx; ties go to the smaller item_idx.

    ``masked`` has a row of item_idx a query: items left out.
    """
    queries_QD = vectors.prepare_queries(queries_QD)
    masked_rows = None if masked is None else _to_rows(vectors, masked)
    parts = []
    for start, stop in blocks(len(queries_QD), BLOCK_QUERIES):
        block = None if masked_rows is None else masked_rows.block(start, stop)
        parts.append(_search_block(vectors, queries_QD[start:stop], k, block))
    found = concatenate(parts, k)
    ids = np.where(found.ids >= 0, vectors.item_idx[np.maximum(found.ids, 0)], found.ids)
    return Ranked(ids.astype(np.int32), found.scores)


def _search_block(vectors: ItemVectors, queries_BD: FloatArray, k: int, masked: Ragged | None) -> Ranked:
    """Lists of rows of ``vectors``; rows ascend with item_idx, so ties fall the same way."""
    best = TopK(len(queries_BD), k)
    for start, stop in blocks(len(vectors), BLOCK_ITEMS):
        scores_BN = queries_BD @ vectors.candidates[start:stop].T + vectors.bias[start:stop]
        if masked is not None:
            mask_scores(scores_BN, masked, start)
        best.push(scores_BN, start)
    return best.ranked()


def _to_rows(vectors: ItemVectors, masked: Ragged) -> Ragged:
    """The same lists as rows of ``vectors``; items without a vector can't be listed anyway."""
    rows = vectors.rows_of(masked.values)
    return Ragged.from_lengths(masked.where(rows >= 0).lengths, rows[rows >= 0])
