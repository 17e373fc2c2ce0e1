"""What an index loses against exact search, and what a search costs, over a sweep of its effort (nprobe, ef_search)."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.index.engine import faiss
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import Floats
from recspark.index.search import ShardedIndex
from recspark.index.topk import NO_ID, Ids, largest_k

DEPTHS = (1, 10, 100)
"""k of the recalls; index.target_recall means the one at 10."""
_EXACT_BLOCK = 262_144
_NUM_TIMED = 200
"""Single queries timed a point of the curve."""
_NEARLY = 0.005
_TIE = 1e-5
"""Scores this close, relative to the largest, count as equal: an item as good as the k-th is no miss."""


@dataclass(frozen=True)
class CurvePoint:
    """One setting of the sweep; latencies are of single queries, ``queries_per_second`` of one batch (top 10).

    ``effort`` is nprobe or ef_search, ``refine_factor`` the candidates a result in the second stage (1 without one).
    Recalls are of items' own vectors; those of users' vectors, which lie elsewhere, stand apart (None without any).
    """

    effort: int | None
    recall_at_1: float
    recall_at_10: float
    recall_at_100: float
    p50_ms: float
    p99_ms: float
    queries_per_second: float
    refine_factor: int = 1
    user_recall_at_10: float | None = None
    user_recall_at_100: float | None = None

    def recall_at(self, k: int) -> float:
        """The recall at 10 or 100, of items or users, whichever is lower."""
        items, users = {
            10: (self.recall_at_10, self.user_recall_at_10),
            100: (self.recall_at_100, self.user_recall_at_100),
        }[k]
        return items if users is None else min(items, users)

    def to_facts(self) -> dict[str, Any]:
        """Plain values, rounded for the manifest."""
        return {key: value if value is None else round(value, 5) for key, value in asdict(self).items()}


class ExactSearch:
    """All items' scores, block by block: the yardstick. Used by the build only."""

    def __init__(self, items: ItemVectors) -> None:
        self._items = items

    def search(self, queries: Floats, k: int) -> tuple[Ids, Floats]:
        """(item_idx, scores), each [Q, k], best first, ties by smaller id, for float32[Q, dim] queries."""
        points = self._query_points(queries)
        ids = np.empty((len(queries), 0), np.int64)
        scores = np.empty((len(queries), 0), np.float32)
        for start in range(0, len(self._items), _EXACT_BLOCK):
            rows = np.arange(start, min(start + _EXACT_BLOCK, len(self._items)))
            depth = min(k, len(rows))
            found, places = faiss.knn(points, self._item_points(rows), depth, metric=faiss.METRIC_INNER_PRODUCT)
            scores, ids = largest_k(np.hstack([scores, found]), np.hstack([ids, self._items.item_idx[rows[places]]]), k)
        return ids, scores

    def scores_of(self, queries: Floats, item_idx: Ids) -> Floats:
        """Exact scores float32[Q, K] of given items [Q, K]; -inf for -1."""
        rows = np.searchsorted(self._items.item_idx, np.maximum(item_idx, self._items.item_idx[0]))
        points = self._query_points(queries)
        scores = np.stack([self._item_points(r) @ p for r, p in zip(rows, points, strict=True)])
        return np.where(item_idx == NO_ID, -np.inf, scores).astype(np.float32)

    def _query_points(self, queries: Floats) -> Floats:
        return np.hstack([self._items.prepare_queries(queries), np.ones((len(queries), 1), np.float32)])

    def _item_points(self, rows: NDArray[np.int64]) -> Floats:
        """Of some rows only: copies of all would double what the items take."""
        block = replace(self._items, vectors=self._items.vectors[rows], item_idx=self._items.item_idx[rows])
        return np.hstack([block.candidates, self._items.bias[rows, None]])


class RecallProbe:
    """Queries with their exact results. ``own_idx`` int64[Q] are the items they come from: left out of both lists.
    ``users`` float32[U, dim] are vectors of users, which are measured beside them.
    """

    def __init__(self, items: ItemVectors, queries: Floats, own_idx: Ids, users: Floats | None = None) -> None:
        self._exact, self._queries, self._own_idx = ExactSearch(items), queries, own_idx
        depth = min(DEPTHS[-1], max(len(items) - 1, 1))
        self._wanted = without_own(*self._exact.search(queries, depth + 1), own_idx, depth)[1]
        none_idx = np.full(0 if users is None else len(users), NO_ID)
        self._of_users = RecallProbe(items, users, none_idx) if users is not None and len(users) else None

    def measure_curve(
        self, index: ShardedIndex, efforts: Sequence[int | None], target: float | None
    ) -> list[CurvePoint]:
        """A point for each of ``efforts``, ascending; ended by the first where all recalls reach ``target``."""
        points: list[CurvePoint] = []
        for effort in efforts:
            points.append(self.measure_point(index, effort))
            if target is not None and min(points[-1].recall_at(10), points[-1].recall_at(100)) >= target:
                break
        return points

    def measure_point(self, index: ShardedIndex, effort: int | None) -> CurvePoint:
        """Recall and speed at one setting."""
        (at_1, _), (at_10, seconds), (at_100, _) = (self._measure_recall(index, effort, k) for k in DEPTHS)
        p50_ms, p99_ms = _latency_ms(index, self._queries[:_NUM_TIMED], effort)
        speed = len(self._queries) / max(seconds, 1e-9)
        point = CurvePoint(effort, at_1, at_10, at_100, p50_ms, p99_ms, speed, index.refine_factor)
        if self._of_users is None:
            return point
        of_users = [self._of_users._measure_recall(index, effort, k)[0] for k in DEPTHS[1:]]
        return replace(point, user_recall_at_10=of_users[0], user_recall_at_100=of_users[1])

    def _measure_recall(self, index: ShardedIndex, effort: int | None, k: int) -> tuple[float, float]:
        """(recall@k, seconds) of one search: a list of 100 sees more candidates, so its first 10 are better than a
        list of 10."""
        k = min(k, self._wanted.shape[1])
        started = time.perf_counter()
        found = index.search(self._queries, k + 1, effort=effort)
        seconds = time.perf_counter() - started
        ids, _ = without_own(*found, self._own_idx, k)
        return recall_at(k, self._exact.scores_of(self._queries, ids), self._wanted), seconds


def recall_at(k: int, reached: Floats, wanted: Floats) -> float:
    """Mean share of the k exact results that were found.

    ``reached`` float32[Q, K] are exact scores of what was found (-inf: nothing), ``wanted`` float32[Q, K] those of the
    exact results, best first. A found item counts when it scores like the exact k-th or better, so that equal
    items stand in for each other. Where there is nothing to find, as beside a catalogue's only item, all is found.
    """
    scale = max(float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)), 1e-30)
    real = np.isfinite(wanted[:, :k]).sum(axis=1)
    last = np.where(np.isfinite(wanted[:, :k]), wanted[:, :k], np.inf).min(axis=1)
    hits = (reached[:, :k] >= last[:, None] - _TIE * scale).sum(axis=1)
    return float(np.mean(np.where(real > 0, np.minimum(hits, real) / np.maximum(real, 1), 1.0)))


def without_own(ids: Ids, scores: Floats, own_idx: Ids, k: int) -> tuple[Ids, Floats]:
    """The first k results [Q, k] of lists [Q, k + 1], less each query's own item."""
    own = ids == own_idx[:, None]
    order = np.argsort(own, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def choose_point(
    curve: list[CurvePoint], k: int, target: float, asked: int | None = None, floor: float = 0.0
) -> CurvePoint:
    """The point that was asked for, else the cheapest whose recall@k reaches ``target`` and ``floor``.

    Where none reaches both, the cheapest that comes within .005 of the best, and not below the floor unless all are.
    """
    if asked is not None:
        return next(point for point in curve if point.effort == asked)
    recalls = [point.recall_at(k) for point in curve]
    best, wanted = max(recalls), max(target, floor)
    enough = wanted if best >= wanted else max(best - _NEARLY, min(floor, best))
    return next(point for point, recall in zip(curve, recalls, strict=True) if recall >= enough)


def _latency_ms(index: ShardedIndex, queries: Floats, effort: int | None) -> tuple[float, float]:
    """(p50, p99) milliseconds of top-10 searches, one query at a time."""
    times = []
    for row in range(len(queries)):
        started = time.perf_counter()
        index.search(queries[row : row + 1], 10, effort=effort)
        times.append(1000 * (time.perf_counter() - started))
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))
