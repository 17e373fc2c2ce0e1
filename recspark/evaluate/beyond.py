"""Beyond accuracy: how much of the catalogue is shown, how popular and how surprising the lists are.

Shapes: U = users, K = length of the lists (id -1 where a list ended), N = items.
"""

import numpy as np

from recspark.evaluate.ragged import BoolArray, IntArray, Ragged
from recspark.evaluate.ranking import Values


def coverage(ids_UK: IntArray, in_catalogue: BoolArray, k: int) -> float:
    """Share of the catalogue's items that stand in at least one user's first k."""
    shown = np.unique(ids_UK[:, :k])
    shown = shown[shown >= 0]
    return float(in_catalogue[shown].sum() / max(in_catalogue.sum(), 1))


def popularity_lift(ids_UK: IntArray, history: Ragged, num_events: IntArray, k: int) -> float:
    """How much more popular the lists are than the users' own histories: GAP(lists) / GAP(histories) - 1.

    GAP is the mean over users of the mean train events of a user's items; users with an empty list count in neither.
    0: as popular as what users do themselves; 1: twice as popular. Source: Abdollahpouri et al. 2019, delta GAP.
    """
    lists, has_list = _mean_of_lists(ids_UK[:, :k], num_events.astype(np.float64))
    sums = np.bincount(history.row_of_value, weights=num_events[history.values], minlength=len(history))
    of_history = (sums / np.maximum(history.lengths, 1))[has_list]
    if not has_list.any() or of_history.sum() == 0:
        return 0.0
    return float(lists.mean() / of_history.mean() - 1.0)


def novelty(ids_UK: IntArray, num_events: IntArray, k: int) -> float:
    """Mean self-information of listed items in bits, -log2 p(item), p = (events + 1) / (all events + N).

    Lists from a uniform catalogue score log2 N. Source: Vargas & Castells 2011 (free discovery).
    """
    share = (num_events + 1.0) / (num_events.sum() + len(num_events))
    lists, has_list = _mean_of_lists(ids_UK[:, :k], -np.log2(share))
    return float(lists.mean()) if has_list.any() else 0.0


def _mean_of_lists(ids_UK: IntArray, value_N: Values) -> tuple[Values, BoolArray]:
    """(mean value of each list that is not empty, which are not)."""
    listed = ids_UK >= 0
    sums = np.where(listed, value_N[np.where(listed, ids_UK, 0)], 0.0).sum(axis=1)
    has_list = listed.any(axis=1)
    return sums[has_list] / listed.sum(axis=1)[has_list], np.asarray(has_list)
