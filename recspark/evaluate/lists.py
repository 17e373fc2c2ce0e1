"""Ranked lists and what is done with them once they are there: cut, masked, put together. Needs numpy alone.

Shapes: B = users of a block, F = items fetched, K = length of a list. A list that runs short ends in id -1 with score
-inf.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import IntArray, Ragged

FloatArray = NDArray[np.float32]

NO_ITEM = -1


@dataclass(frozen=True)
class Ranked:
    """Lists of items, best first: ``ids`` int32 [U, K] (-1 where a list ended) and ``scores`` float32 [U, K]."""

    ids: NDArray[np.int32]
    scores: FloatArray

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Items in each list."""
        return np.asarray((self.ids >= 0).sum(axis=1), dtype=np.int64)


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of at most ``size`` that cover 0..total-1."""
    return ((start, min(start + size, total)) for start in range(0, total, size))


def keep_unseen(ids_BF: IntArray, scores_BF: FloatArray, masked: Ragged, k: int) -> Ranked:
    """The first k of each fetched list (best first, -1 padded) that are not masked for its row."""
    rows = np.broadcast_to(np.arange(len(ids_BF))[:, None], ids_BF.shape)
    out = (ids_BF < 0) | masked.contains(rows, ids_BF)
    order = np.argsort(out, axis=1, kind="stable")[:, :k]
    out = np.take_along_axis(out, order, axis=1)
    ids = np.where(out, NO_ITEM, np.take_along_axis(ids_BF, order, axis=1))
    scores = np.where(out, -np.inf, np.take_along_axis(scores_BF, order, axis=1))
    return Ranked(_pad(ids, k, NO_ITEM).astype(np.int32), _pad(scores, k, -np.inf).astype(np.float32))


def concatenate(parts: list[Ranked], k: int) -> Ranked:
    """The lists of all parts, one below the other."""
    if not parts:
        return Ranked(np.empty((0, k), dtype=np.int32), np.empty((0, k), dtype=np.float32))
    return Ranked(np.concatenate([p.ids for p in parts]), np.concatenate([p.scores for p in parts]))


def _pad(values: NDArray[Any], k: int, filler: float) -> NDArray[Any]:
    return np.pad(values, ((0, 0), (0, max(0, k - values.shape[1]))), constant_values=filler)
