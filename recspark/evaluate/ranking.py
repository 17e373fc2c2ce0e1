"""Ranking metrics of top-k lists, one value a user, all users at once.

Notation: U = users, K = length of the lists, R_u = a user's relevant items, hit_i = 1 where place i holds one of R_u.
A user whose list is short or empty has misses there; users are never left out of a mean.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recspark.evaluate.ragged import BoolArray, IntArray, Ragged

Values = NDArray[np.float64]
Metric = Callable[[BoolArray, IntArray, int], Values]


def find_hits(ids_UK: IntArray, relevant: Ragged) -> BoolArray:
    """Which places [U, K] hold a relevant item of that user; -1 is none."""
    rows = np.broadcast_to(np.arange(len(ids_UK))[:, None], ids_UK.shape)
    return relevant.contains(rows, ids_UK)


def recall(hits_UK: BoolArray, num_relevant: IntArray, k: int) -> Values:
    """Share of a user's relevant items among the first k: sum_{i<=k} hit_i / |R_u|.

    Hits at places 1 and 3, |R_u| = 4: recall@3 = 2 / 4.
    """
    return np.asarray(hits_UK[:, :k].sum(axis=1) / num_relevant, dtype=np.float64)


def hit_rate(hits_UK: BoolArray, num_relevant: IntArray, k: int) -> Values:
    """1 where any of the first k is relevant."""
    return np.asarray(hits_UK[:, :k].any(axis=1), dtype=np.float64)


def ndcg(hits_UK: BoolArray, num_relevant: IntArray, k: int) -> Values:
    """Discounted gain, sum_{i<=k} hit_i / log2(i + 1), over that of the ideal list of min(k, |R_u|) hits.

    Hits at places 1 and 3, |R_u| = 4: ndcg@3 = (1 + 1/2) / (1 + 1/log2(3) + 1/2).
    Source: Jarvelin & Kekalainen 2002, binary gains.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])
    gains = hits_UK[:, :k] @ discounts[: hits_UK[:, :k].shape[1]]
    return np.asarray(gains / ideal[np.minimum(num_relevant, k)])


def reciprocal_rank(hits_UK: BoolArray, num_relevant: IntArray, k: int) -> Values:
    """1 / place of the first hit among the first k, 0 without one; its mean is MRR@k."""
    cut = hits_UK[:, :k]
    return np.where(cut.any(axis=1), 1.0 / (cut.argmax(axis=1) + 1), 0.0)


def average_precision(hits_UK: BoolArray, num_relevant: IntArray, k: int) -> Values:
    """Precision at each hit, summed and divided by min(k, |R_u|); its mean is MAP@k.

    Hits at places 1 and 3, |R_u| = 4: ap@3 = (1/1 + 2/3) / 3.
    """
    cut = hits_UK[:, :k]
    precision = np.cumsum(cut, axis=1) / np.arange(1, cut.shape[1] + 1)
    return np.asarray((precision * cut).sum(axis=1) / np.minimum(num_relevant, k))


RANKING_METRICS: dict[str, Metric] = {
    "recall": recall,
    "ndcg": ndcg,
    "hr": hit_rate,
    "mrr": reciprocal_rank,
    "map": average_precision,
}
"""By the name they have in table `metrics`."""
