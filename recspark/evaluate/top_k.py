"""From scores to ranked lists: the best k a user, seen items left out, ties to the smaller item_idx.

Shapes: U = users, B = users of a block, N = items, F = items fetched, K = length of a list. A list that runs short ends
in id -1 with score -inf.
"""

from collections.abc import Callable

import numpy as np

from recspark.evaluate.kernel import EMPTY_ID, push_rows
from recspark.evaluate.lists import NO_ITEM, FloatArray, Ranked, blocks, concatenate, keep_unseen
from recspark.evaluate.ragged import BoolArray, Ragged

__all__ = [
    "BLOCK_BYTES", "NO_ITEM", "FloatArray", "Ranked", "ScoreBlock", "TopK", "blocks", "concatenate", "keep_unseen",
    "mask_scores", "rank_all", "top_k",
]  # fmt: skip

ScoreBlock = Callable[[int, int], FloatArray]
"""(start, stop) of a block of users -> their scores of all items [B, N], free to be changed in place."""

BLOCK_BYTES = 64 << 20
"""Scores held at a time."""


class TopK:
    """The best k columns of each row, gathered over blocks of columns that come in ascending order."""

    def __init__(self, num_rows: int, k: int) -> None:
        self._scores = np.full((num_rows, k), -np.inf, dtype=np.float32)
        self._ids = np.full((num_rows, k), EMPTY_ID, dtype=np.int32)

    def push(self, scores_BN: FloatArray, first_id: int = 0) -> None:
        """Offers columns ``first_id ...``; NaN and -inf are never taken."""
        push_rows(np.ascontiguousarray(scores_BN, dtype=np.float32), first_id, self._scores, self._ids)

    def ranked(self) -> Ranked:
        """The lists, best first."""
        order = np.lexsort((self._ids, -self._scores), axis=-1)
        ids = np.take_along_axis(self._ids, order, axis=1)
        scores = np.take_along_axis(self._scores, order, axis=1)
        return Ranked(np.where(ids == EMPTY_ID, NO_ITEM, ids).astype(np.int32), scores)


def top_k(scores_BN: FloatArray, k: int) -> Ranked:
    """The best k columns of each row."""
    best = TopK(len(scores_BN), k)
    best.push(scores_BN)
    return best.ranked()


def mask_scores(scores_BN: FloatArray, masked: Ragged, first_id: int = 0) -> None:
    """Sets each row's masked items to -inf, in place; column 0 is item ``first_id``."""
    columns = masked.values.astype(np.int64) - first_id
    inside = (columns >= 0) & (columns < scores_BN.shape[1])
    scores_BN[masked.row_of_value[inside], columns[inside]] = -np.inf


def rank_all(
    score_block: ScoreBlock, masked: Ragged, num_items: int, k: int, candidates: BoolArray | None = None
) -> Ranked:
    """Every user's best k of all items by a scorer, block by block.

    ``masked`` has one row a user: items that must not be listed. ``candidates`` marks the items that may be.
    """
    parts = []
    barred = None if candidates is None or candidates.all() else np.flatnonzero(~candidates)
    for start, stop in blocks(len(masked), max(1, BLOCK_BYTES // (4 * max(num_items, 1)))):
        scores_BN = score_block(start, stop)
        mask_scores(scores_BN, masked.block(start, stop))
        if barred is not None:
            scores_BN[:, barred] = -np.inf
        parts.append(top_k(scores_BN, k))
    return concatenate(parts, k)
