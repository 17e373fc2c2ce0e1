"""The most popular items, the same for all but for what each user has seen."""

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import BoolArray, IntArray, Ragged
from recspark.evaluate.top_k import NO_ITEM, Ranked, blocks, concatenate, keep_unseen

_CELLS = 1 << 22
"""Places of fetched lists held at a time."""


def weigh_by_recency(
    items: IntArray, age_days: NDArray[np.float64], half_life_days: float, num_items: int
) -> NDArray[np.float64]:
    """Each item's events [N], an event of age a counting 2^(-a / half_life_days)."""
    return np.bincount(items, np.exp2(-age_days / half_life_days), num_items).astype(np.float64)


def rank_by_popularity(
    popularity: IntArray | NDArray[np.float64], masked: Ragged, k: int, candidates: BoolArray | None = None
) -> Ranked:
    """Each user's k most popular items that are not masked; ties go to the smaller item_idx.

    ``popularity`` [N]; only ``candidates`` [N] are listed, by default items above 0. One list is ranked, long enough
    for k to survive any mask.
    """
    listed = popularity > 0 if candidates is None else candidates
    order = np.argsort(-popularity, kind="stable")
    order = order[listed[order]][: k + int(masked.lengths.max(initial=0))]
    scores = popularity[order].astype(np.float32)
    if not len(order):
        order, scores = np.array([NO_ITEM]), np.array([-np.inf], dtype=np.float32)
    parts = []
    for start, stop in blocks(len(masked), max(1, _CELLS // len(order))):
        shape = (stop - start, len(order))
        lists = np.broadcast_to(order, shape), np.broadcast_to(scores, shape)
        parts.append(keep_unseen(*lists, masked.block(start, stop), k))
    return concatenate(parts, k)
