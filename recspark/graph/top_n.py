# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""From a dense row of sums to its best neighbours, in a total order: kernels like those of `recspark.graph.kernel`.

sums {4: 2.0, 7: 2.0, 9: 3.0}, limit 2, score count   ->   dst [9, 4], scores [3.0, 2.0]
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.graph.kernel import PLAIN, add_pairs, count_users

COUNT, PRODUCT, JACCARD, PPMI, LLR = range(5)
"""Scores; their terms are made by `recspark.graph.scores`. PRODUCT is of cosine and of lift."""


class ScoreRule(NamedTuple):
    """How a row's sums become scores, and which of them stay."""

    kind: int
    source_terms: NDArray[np.float64]
    candidate_terms: NDArray[np.float64]
    total: float
    """Of LLR: units (or users) in all."""
    min_support: int
    limit: int
    """Neighbours kept."""


class Rows(NamedTuple):
    """Finished rows, one after the other."""

    sizes: NDArray[np.int32]
    dst: NDArray[np.int32]
    scores: NDArray[np.float32]
    counts: NDArray[np.int32]


def new_rows(num_rows: int, capacity: int) -> Rows:
    """Room for ``capacity`` neighbours of ``num_rows`` rows."""
    return Rows(
        np.zeros(num_rows, np.int32),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.float32),
        np.empty(capacity, np.int32),
    )


@njit(cache=True, nogil=True)
def pair_score(kind: int, weight: float, source_term: float, candidate_term: float) -> float:
    """The score of a pair's weighted sum, of any kind but LLR; terms as `recspark.graph.scores` makes them."""
    if kind == PRODUCT:
        return weight * (source_term * candidate_term)
    if kind == JACCARD:
        return weight / (source_term + candidate_term - weight)
    if kind == PPMI:
        return np.log(weight * (source_term * candidate_term))
    return weight


@njit(cache=True, nogil=True)
def _surprise(count: float, expected: float) -> float:
    """k log(k / E) of one cell of a table, 0 for an empty one."""
    return count * np.log(count / expected) if count > 0 else 0.0


@njit(cache=True, nogil=True)
def log_likelihood_ratio(both: float, source: float, candidate: float, total: float) -> float:
    """Dunning's G^2 of the 2x2 table of two items; 0 where they meet no more often than by chance.

    ``both`` of ``total`` units hold both items, ``source`` and ``candidate`` of them each.

    Source: Dunning 1993, section 5; 2 sum k log(k / E) over the four cells equals the entropy form of Mahout's
    LogLikelihood.logLikelihoodRatio, but does not subtract large numbers. Unlike there, pairs that avoid each other
    score 0: they are no neighbours.
    """
    if both * total <= source * candidate:
        return 0.0
    without_source, without_candidate = total - source, total - candidate
    cells = _surprise(both, source * candidate / total)
    cells += _surprise(source - both, source * without_candidate / total)
    cells += _surprise(candidate - both, without_source * candidate / total)
    cells += _surprise(total - source - candidate + both, without_source * without_candidate / total)
    return 2.0 * cells


@njit(cache=True, nogil=True)
def _is_worse(score: float, item: int, than_score: float, than_item: int) -> bool:
    return score < than_score or (score == than_score and item > than_item)


@njit(cache=True, nogil=True)
def _sift_down(rows: Any, start: int, size: int, score: float, item: int, count: int) -> None:
    """Puts an entry into the root of a heap (worst on top) of ``size`` entries that begins at ``start``."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        a, b = start + child, start + child + 1
        if child + 1 < size and _is_worse(rows.scores[b], rows.dst[b], rows.scores[a], rows.dst[a]):
            child, a = child + 1, b
        if not _is_worse(rows.scores[a], rows.dst[a], score, item):
            break
        to = start + place
        rows.scores[to], rows.dst[to], rows.counts[to] = rows.scores[a], rows.dst[a], rows.counts[a]
        place = child
    to = start + place
    rows.scores[to], rows.dst[to], rows.counts[to] = score, item, count


@njit(cache=True, nogil=True)
def _sift_up(rows: Any, start: int, size: int, score: float, item: int, count: int) -> None:
    """Adds an entry to a heap (worst on top) that holds ``size`` entries."""
    place = size
    while place > 0:
        above = start + ((place - 1) >> 1)
        if not _is_worse(score, item, rows.scores[above], rows.dst[above]):
            break
        to = start + place
        rows.scores[to], rows.dst[to], rows.counts[to] = rows.scores[above], rows.dst[above], rows.counts[above]
        place = (place - 1) >> 1
    to = start + place
    rows.scores[to], rows.dst[to], rows.counts[to] = score, item, count


@njit(cache=True, nogil=True)
def select_row(item: int, num_touched: int, pair: Any, rule: Any, row: Any, rows: Any, start: int) -> int:
    """Writes an item's best neighbours at ``start``, best first, clears the row, and returns how many there are.

    The order is total (score descending, item ascending), so the result does not depend on arrival order. Pairs below
    ``min_support``, of no weight, and of PPMI or LLR <= 0 are no neighbours.
    """
    size = 0
    for n in range(num_touched):
        other = row.touched[n]
        count = row.counts[other]
        weight = np.float64(count)
        row.counts[other] = 0
        if pair.mode != PLAIN:
            weight = row.sums[other] / pair.scale
            row.sums[other] = 0
        if other == item or count < rule.min_support or weight <= 0.0:
            continue
        source_term, candidate_term = rule.source_terms[item], rule.candidate_terms[other]
        if rule.kind == LLR:
            score = np.float32(log_likelihood_ratio(np.float64(count), source_term, candidate_term, rule.total))
        else:
            score = np.float32(pair_score(rule.kind, weight, source_term, candidate_term))
        if rule.kind >= PPMI and score <= 0.0:
            continue
        if size < rule.limit:
            _sift_up(rows, start, size, score, other, count)
            size += 1
        elif _is_worse(rows.scores[start], rows.dst[start], score, other):
            _sift_down(rows, start, size, score, other, count)
    for left in range(size - 1, 0, -1):
        end = start + left
        score, other, count = rows.scores[end], rows.dst[end], rows.counts[end]
        rows.scores[end], rows.dst[end], rows.counts[end] = rows.scores[start], rows.dst[start], rows.counts[start]
        _sift_down(rows, start, left, score, other, count)
    return size


@njit(cache=True, nogil=True)
def add_row(item: int, posting: Any, units: Any, pair: Any, row: Any) -> int:
    """Fills an empty row with all pairs of an item; the number of touched items. Its counts are of units, or of users
    where the units have them.
    """
    num_touched = add_pairs(item, posting, units, pair, row, 0)
    if len(units.users):
        for other in row.touched[:num_touched]:
            row.counts[other] = 0
        count_users(item, posting, units, pair.window, row.last_user, row.counts)
        for other in row.touched[:num_touched]:
            row.last_user[other] = -1
    return num_touched


@njit(cache=True, nogil=True)
def build_rows(
    first: int, items: Any, ptr: Any, posting: Any, units: Any, pair: Any, rule: Any, row: Any, rows: Any
) -> Any:
    """Rows of the local ``items`` from number ``first`` on, as far as ``rows`` surely holds them.

    Returns (number of the next item, neighbours written); ``rows.sizes[n]`` is set for each item done.
    """
    used = 0
    room = min(rule.limit, len(row.counts))
    for local in range(first, len(items)):
        if used + room > len(rows.dst):
            return local, used
        num_touched = add_row(items[local], posting[ptr[local] : ptr[local + 1]], units, pair, row)
        size = select_row(items[local], num_touched, pair, rule, row, rows, used)
        rows.sizes[local] = size
        used += size
    return len(items), used
