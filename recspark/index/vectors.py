"""What an index is built from: item vectors that can be compared, and samples of them."""

import numpy as np
from numpy.typing import NDArray

from recspark.contracts.shards import hash_ids
from recspark.errors import IndexBuildError
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import COSINE, L2, squared_norms

_SHOWN_IDS = 5
_ROWS_AT_ONCE = 65_536
_LONGEST = float(np.sqrt(np.finfo(np.float32).max)) / 4
"""Two points this far from the middle, bias included, are at most half of what float32 can square apart."""
_DIGEST_SEED = 11


def check_vectors(items: ItemVectors) -> None:
    """Checks that every vector is made of numbers, and of such that distances can be told in float32.

    Raises: IndexBuildError for NaN, infinite or too large values, with count and first ids.
    """
    finite = np.isfinite(items.vectors).all(axis=1) & np.isfinite(items.bias)
    _refuse(items, ~finite, "hold NaN or infinite values", "look at the training log: it may have diverged")
    finite_queries = np.isfinite(items.queries).all(axis=1)
    _refuse(items, ~finite_queries, "have query vectors with NaN or infinite values", "look at the training log")
    advice = "look at the training log: it may have diverged, or take metric cosine"
    if items.metric != COSINE:
        squares = squared_norms(items.vectors)
        if items.metric == L2:  # queries of others are stretched to the vectors' length
            squares = np.maximum(squares, squared_norms(items.queries))
        is_long = squares > _LONGEST**2
        _refuse(items, is_long, "are so long that their squares overflow float32", advice)
    if items.metric != L2:  # there the bias is no square
        _refuse(
            items,
            np.abs(items.bias) > _LONGEST,
            "have a bias whose square overflows float32",
            "look at the training log",
        )


def drop_zero_vectors(items: ItemVectors, *, is_part: bool = False) -> ItemVectors:
    """Under cosine, the items that have a direction: isolated nodes of an edge list have none and match nothing.

    Raises: IndexBuildError when none is left, unless ``items`` are only a part.
    """
    kept = items.vectors.any(axis=1)
    if items.metric != COSINE or kept.all():
        return items
    if not kept.any() and not is_part:
        raise IndexBuildError(
            f"all {len(items):,} vectors are zero, which cosine cannot compare; look at the training log"
        )
    return items.take(np.flatnonzero(kept))


def hash_sample(item_idx: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Rows of a random sample that hangs on the ids and the seed only: the ``size`` smallest hashes, in hash order."""
    order = np.argsort(hash_ids(item_idx, seed), kind="stable")
    return order[:size].astype(np.int64)


def digest_vectors(items: ItemVectors) -> NDArray[np.uint64]:
    """A 64-bit digest of each item's vector and bias: equal where all floats are, to the bit."""
    weights = hash_ids(np.arange(items.dim + 1), _DIGEST_SEED) | np.uint64(1)
    digests = np.empty(len(items), np.uint64)
    for start in range(0, len(items), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        floats = np.hstack([items.vectors[part], items.bias[part, None]]).astype(np.float32)
        with np.errstate(over="ignore"):
            digests[part] = ((floats.view(np.uint32).astype(np.uint64) + np.uint64(1)) * weights).sum(axis=1)
    return hash_ids(digests)


def _refuse(items: ItemVectors, is_bad: NDArray[np.bool_] | np.bool_, what: str, advice: str) -> None:
    rows = np.flatnonzero(is_bad)
    if not len(rows):
        return
    ids = items.item_idx if items.item_id is None else items.item_id
    first = ", ".join(str(ids[int(row)]) for row in rows[:_SHOWN_IDS])
    more = ", ..." if len(rows) > _SHOWN_IDS else ""
    raise IndexBuildError(f"item_embeddings: {len(rows)} of {len(items)} vectors {what}: {first}{more}; {advice}")
