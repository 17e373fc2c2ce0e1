"""The most popular items, the same for all but for what each user has seen."""

import numpy as np

from recspark.evaluate.ragged import IntArray, Ragged
from recspark.evaluate.top_k import NO_ITEM, Ranked, blocks, concatenate, keep_unseen

_CELLS = 1 << 22
"""Places of fetched lists held at a time."""


def rank_by_popularity(num_events: IntArray, masked: Ragged, k: int) -> Ranked:
    """Each user's k items with the most train events that are not masked; ties go to the smaller item_idx.

    ``num_events`` [N]; items with 0 are never listed. One list is ranked, long enough for k to survive any mask.
    """
    order = np.argsort(-num_events, kind="stable")
    order = order[num_events[order] > 0][: k + int(masked.lengths.max(initial=0))]
    scores = num_events[order].astype(np.float32)
    if not len(order):
        order, scores = np.array([NO_ITEM]), np.array([-np.inf], dtype=np.float32)
    parts = []
    for start, stop in blocks(len(masked), max(1, _CELLS // len(order))):
        shape = (stop - start, len(order))
        lists = np.broadcast_to(order, shape), np.broadcast_to(scores, shape)
        parts.append(keep_unseen(*lists, masked.block(start, stop), k))
    return concatenate(parts, k)
