"""The peer of `cooccurrence_kernel`: scipy's sparse product in blocks of rows, then each row's best by partition.

int32 counts, the whole `X.T @ X` in its fastest form (CSR times CSR), never more than a block of it in memory; scores
of a block at once. Only the top 50 need a loop over rows: numpy has no partition of ragged rows. scipy's product runs
on one core.
"""

import time

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benchmarks.graph_rows import GraphRows, rows_from_sizes

BLOCK_COST = 20_000_000
"""Multiplications of a block, so at most as many values: 160 MB."""


def build_rows(
    indptr: NDArray[np.int64], items: NDArray[np.int32], num_items: int, limit: int, block_cost: int = BLOCK_COST
) -> tuple[GraphRows, dict[str, float]]:
    """(each item's best by cosine of session counts; seconds of product and of top)."""
    ones = np.ones(len(items), np.int32)
    sessions = csr_matrix((ones, items, indptr.astype(np.int32)), shape=(len(indptr) - 1, num_items))
    by_item = sessions.T.tocsr()
    terms = _inverse_roots(np.diff(by_item.indptr))
    seconds = {"product": 0.0, "top": 0.0}
    parts = []
    for first, last in cut_blocks(_costs(by_item, np.diff(indptr)), block_cost):
        started = time.perf_counter()
        block = by_item[first:last] @ sessions
        multiplied = time.perf_counter()
        parts.append(_find_best(block, first, terms, limit))
        seconds["product"] += multiplied - started
        seconds["top"] += time.perf_counter() - multiplied
    sizes, dst, scores, counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return rows_from_sizes(sizes, dst, scores, counts), seconds


def cut_blocks(costs: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Half-open runs of rows that cost at most so much together; one row alone may cost more."""
    ends = np.cumsum(costs)
    blocks, first = [], 0
    while first < len(costs):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + most, side="right")))
        blocks.append((first, last))
        first = last
    return blocks


def _costs(by_item: csr_matrix, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Multiplications of each item's row: the lengths of its sessions."""
    before = np.concatenate([[0], np.cumsum(lengths[by_item.indices])])
    costs: NDArray[np.int64] = before[by_item.indptr[1:]] - before[by_item.indptr[:-1]]
    return costs


def _inverse_roots(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    roots = np.zeros(len(counts))
    np.power(counts, -0.5, out=roots, where=counts > 0, dtype=np.float64)
    return roots


def _find_best(
    block: csr_matrix, first: int, terms: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """(sizes, dst, scores, counts) of a block's rows."""
    source = np.repeat(np.arange(first, first + block.shape[0]), np.diff(block.indptr))
    scores = (block.data * (terms[source] * terms[block.indices])).astype(np.float32)
    scores[block.indices == source] = 0.0  # the item itself
    sizes = np.zeros(block.shape[0], np.int32)
    kept = []
    for row in range(block.shape[0]):
        start, stop = block.indptr[row], block.indptr[row + 1]
        places = start + _best_places(scores[start:stop], block.indices[start:stop], limit)
        sizes[row] = len(places)
        kept.append(places)
    chosen = np.concatenate(kept)
    return sizes, block.indices[chosen], scores[chosen], block.data[chosen]


def _best_places(scores: NDArray[np.float32], items: NDArray[np.int32], limit: int) -> NDArray[np.int64]:
    """Places of a row's best, by (score, item); scores of 0 are none."""
    worst = np.float32(0)
    if len(scores) > limit:
        worst = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    near = np.flatnonzero((scores >= worst) & (scores > 0))
    best: NDArray[np.int64] = near[np.lexsort((items[near], -scores[near]))[:limit]]
    return best
