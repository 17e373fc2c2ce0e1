"""An opened index: queries in, (item_idx, score) out, whatever its kind, shards, metric and second stage."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.errors import QueryError
from recspark.index.engine import FaissIndex, faiss
from recspark.index.ids import ItemIds
from recspark.index.metric import Floats, Space
from recspark.index.refine import RefineVectors
from recspark.index.scope import Scope
from recspark.index.shards import Shards
from recspark.index.topk import NO_ID, Ids, largest_k

SHALLOW_K = 10
"""Longer result lists are searched with ``deep_effort``: few lists may hold 10 good items, but not 100."""
DEEP_K = 100
"""Up to here the manifest's efforts were chosen by recall."""
QUERY_BLOCK = 1024
"""Queries searched at a time by a thread: bounds what candidates of all shards take."""


class ShardedIndex:
    """An opened index. Searches may run in several threads at once: nothing is changed by them."""

    def __init__(
        self,
        *,
        kind: str,
        space: Space,
        shards: list[FaissIndex],
        item_ids: ItemIds,
        effort: int | None = None,
        deep_effort: int | None = None,
        refine: RefineVectors | None = None,
        refine_factor: int = 1,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.kind, self.space, self.item_ids = kind, space, item_ids
        self._shards = Shards(kind, shards)
        self.effort, self.deep_effort = effort, deep_effort
        self.refine, self.refine_factor = refine, refine_factor
        self.facts = facts or {}

    @property
    def shards(self) -> list[FaissIndex]:
        """The faiss indexes that are asked, without the rotation in front of them."""
        return self._shards.indexes

    @property
    def metric(self) -> str:
        """``cosine``, ``ip`` or ``l2``; the score adds the item's bias."""
        return self.space.metric

    def __len__(self) -> int:
        return len(self.item_ids)

    def with_refine_factor(self, refine_factor: int) -> "ShardedIndex":
        """The same index with another number of candidates a result in its second stage."""
        changed = copy.copy(self)
        changed.refine_factor = refine_factor
        return changed

    def merge(self) -> FaissIndex:
        """One plain faiss index, rotation included, of all that this one holds; this one is spent by it."""
        return self._shards.merge()

    def search(
        self,
        queries: Floats,
        k: int,
        allowed: NDArray[Any] | None = None,
        blocked: NDArray[Any] | None = None,
        effort: int | None = None,
        num_threads: int | None = None,
    ) -> tuple[Ids, Floats]:
        """The k best items of each query: (item_idx int64[Q, k], score float32[Q, k]), best first.

        Rows short of k end in (-1, -inf): there are no more items. Many queries go in blocks, each in a thread of its
        own, with the same result; beyond the result a thread holds one block.

        The manifest's effort holds where it is enough: a query whose lists hold fewer than 4 k items, or of whose lists
        a filter leaves less than four fifths, is searched in more (`InvertedLists.choose`), up to all. A graph that
        sees fewer than k, with a filter 4 k, is scanned.

        Args:
            queries: float32[Q, dim].
            k: Results a query.
            allowed: Items that every query may get: item_idx, or a bitmap bool[item_idx] (`filters`); all by default.
            blocked: Items that none may get, likewise.
            effort: nprobe or ef_search instead of the manifest's: exactly that, so rows may run short.
            num_threads: Blocks searched at once; as many as faiss would use by default.

        Raises: QueryError for queries of another dimension or with values that are not finite.
        """
        queries = self._check_queries(queries)
        scope = self._plan_scope(k, allowed, blocked, effort)
        ids = np.full((len(queries), k), NO_ID, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        depth = min(k, len(self))

        def search_block(part: slice) -> None:
            ids[part, :depth], scores[part, :depth] = self._search_block(queries[part], depth, scope)

        _run_blocks(search_block, _blocks(len(queries)), num_threads or faiss.omp_get_max_threads())
        return ids, scores

    def effort_for(self, k: int) -> int:
        """nprobe or ef_search of the manifest: chosen by recall@10, or by recall@100 where k is more than 10.

        Beyond 100 a graph is searched with at least 2 k, as one of k finds 100 of 100 but fewer of 1,000.
        """
        effort = (self.effort if k <= SHALLOW_K else self.deep_effort) or self.effort or 1
        return max(effort, 2 * k) if self.kind == "hnsw" and k > DEEP_K else effort

    def _search_block(self, queries: Floats, k: int, scope: Scope) -> tuple[Ids, Floats]:
        encoded = self.space.encode_queries(queries)
        num_candidates = min(k * self.refine_factor, len(self))
        distances, ids = self._shards.nearest(encoded.points, num_candidates, scope)
        if self.refine is None:
            return ids, self.space.scores(distances, encoded)
        rows = self.item_ids.rows_of(ids)
        found = self.refine.similarities(
            self.space, queries, self.item_ids.shard[rows], self.item_ids.row_in_shard[rows]
        )
        scores, ids = largest_k(found + self.item_ids.bias[rows], ids, k)
        return ids, scores

    def _plan_scope(
        self, k: int, allowed: NDArray[Any] | None, blocked: NDArray[Any] | None, effort: int | None
    ) -> Scope:
        is_allowed = self._find_allowed(allowed, blocked)
        num_allowed = len(self) if is_allowed is None else int(is_allowed.sum())
        if effort is not None:
            return Scope(effort, 0, is_allowed, num_allowed)
        return Scope(self.effort_for(k), k, is_allowed, num_allowed)

    def _find_allowed(self, allowed: NDArray[Any] | None, blocked: NDArray[Any] | None) -> NDArray[np.bool_] | None:
        """bool[item_idx]; None where every item may be found."""
        if allowed is None and blocked is None:
            return None
        size = int(self.item_ids.item_idx[-1]) + 1
        mask = np.zeros(size, np.bool_)
        mask[self.item_ids.item_idx] = True
        if allowed is not None:
            mask &= _to_bitmap(allowed, size)
        if blocked is not None:
            mask &= ~_to_bitmap(blocked, size)
        return mask

    def _check_queries(self, queries: Floats) -> Floats:
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.space.dim:
            raise QueryError(f"queries are {queries.shape}, the index takes [Q, {self.space.dim}]")
        if not np.isfinite(queries).all():
            raise QueryError("queries hold NaN or infinite values; look at the vectors they were built from")
        return queries


def _blocks(num_queries: int) -> list[slice]:
    return [slice(start, start + QUERY_BLOCK) for start in range(0, num_queries, QUERY_BLOCK)]


def _run_blocks(search_block: Callable[[slice], None], parts: list[slice], num_threads: int) -> None:
    """One block by faiss' own threads; several side by side, each on one thread, so that numpy's part scales too."""
    if len(parts) <= 1 or num_threads == 1:
        for part in parts:
            search_block(part)
        return
    with ThreadPoolExecutor(num_threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(search_block, parts):
            pass


def _to_bitmap(items: NDArray[Any], size: int) -> NDArray[np.bool_]:
    """bool[size] of item_idx, or of a bitmap that may be shorter or longer."""
    bitmap = np.zeros(size, np.bool_)
    if items.dtype == np.bool_:
        bitmap[: len(items)] = items[:size]
        return bitmap
    ids = np.asarray(items, np.int64)
    bitmap[ids[(ids >= 0) & (ids < size)]] = True
    return bitmap
