"""Search over shards as if they were one index: quantise once, ask each, merge, rank again; ties by smaller id.

Shards of one training may also be joined in memory when they are opened: each answer then costs what one index costs
(measured: 8 shards asked one by one take three times the cpu, most of it for distance tables made 8 times).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.errors import QueryError
from recspark.index.engine import FaissIndex, faiss
from recspark.index.ids import ItemIds
from recspark.index.metric import EncodedQueries, Floats, Space
from recspark.index.refine import RefineVectors
from recspark.index.topk import NO_ID, Ids, largest_k, smallest_k

SHALLOW_K = 10
"""Longer result lists are searched with ``deep_effort``: few lists may hold 10 good items, but not 100."""
QUERY_BLOCK = 4096
"""Queries searched at a time: bounds what candidates of all shards take."""


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
        self.kind, self.space, self.shards, self.item_ids = kind, space, shards, item_ids
        self.effort, self.deep_effort = effort, deep_effort
        self.refine, self.refine_factor = refine, refine_factor
        self.facts = facts or {}

    @property
    def metric(self) -> str:
        """``cosine`` or ``ip``; the score adds the item's bias."""
        return self.space.metric

    def __len__(self) -> int:
        return len(self.item_ids)

    def search(
        self,
        queries: Floats,
        k: int,
        allowed: NDArray[np.integer] | None = None,
        blocked: NDArray[np.integer] | None = None,
        effort: int | None = None,
    ) -> tuple[Ids, Floats]:
        """The k best items of each query: (item_idx int64[Q, k], score float32[Q, k]), best first.

        Rows short of k end in (-1, -inf): fewer items, or fewer in the lists that were searched. ``queries`` is
        float32[Q, dim]; ``allowed`` and ``blocked`` are item_idx that every query may, or may not, get; ``effort`` is
        nprobe or ef_search instead of the manifest's.

        Raises: QueryError for queries of another dimension or with values that are not finite.
        """
        queries = self._check_queries(queries)
        mask, effort = self._allowed_mask(allowed, blocked), effort or self.effort_for(k)
        ids = np.full((len(queries), k), NO_ID, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        depth = min(k, len(self))
        for start in range(0, len(queries), QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            ids[part, :depth], scores[part, :depth] = self._search_block(queries[part], depth, mask, effort)
        return ids, scores

    def effort_for(self, k: int) -> int:
        """nprobe or ef_search of the manifest: chosen by recall@10, or by recall@100 where k is more than 10."""
        return (self.effort if k <= SHALLOW_K else self.deep_effort) or self.effort or 1

    def _search_block(self, queries: Floats, k: int, mask: NDArray[np.bool_] | None, effort: int) -> tuple[Ids, Floats]:
        encoded = self.space.encode_queries(queries)
        num_candidates = min(k * self.refine_factor, len(self))
        distances, ids = self._nearest(encoded, num_candidates, mask, effort)
        if self.refine is None:
            return ids, self.space.scores(distances, encoded)
        rows = self.item_ids.rows_of(ids)
        found = self.refine.similarities(
            self.space, queries, self.item_ids.shard[rows], self.item_ids.row_in_shard[rows]
        )
        scores, ids = largest_k(found + self.item_ids.bias[rows], ids, k)
        return ids, scores

    def _nearest(
        self, encoded: EncodedQueries, k: int, mask: NDArray[np.bool_] | None, effort: int
    ) -> tuple[Floats, Ids]:
        """The k nearest of all shards: (distances, ids), each [Q, k]."""
        selector = None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            # Lists are chosen before the filter: the fewer items pass, the more lists it takes to see as many.
            effort = int(np.ceil(effort * len(self) / max(int(mask.sum()), 1)))
        if self.kind.startswith("ivf"):
            found = self._ask_lists(encoded.points, k, effort, selector)
        else:
            parameters = self._parameters(k, effort, selector)
            found = [shard.search(encoded.points, k, params=parameters) for shard in self.shards]
        return smallest_k(np.hstack([d for d, _ in found]), np.hstack([i for _, i in found]), k)

    def _ask_lists(self, points: Floats, k: int, nprobe: int, selector: Any) -> list[tuple[Floats, Ids]]:
        """Every shard's answer from the same lists; all shards have the same quantizer."""
        nprobe = min(nprobe, self.shards[0].nlist)
        list_distances, lists = self.shards[0].quantizer.search(points, nprobe)
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, **({"sel": selector} if selector else {}))
        return [search_lists(shard, points, k, lists, list_distances, parameters) for shard in self.shards]

    def _parameters(self, k: int, effort: int, selector: Any) -> Any:
        chosen = {"sel": selector} if selector else {}
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(min(effort, len(self)), k), **chosen)
        return faiss.SearchParameters(**chosen) if chosen else None

    def _allowed_mask(
        self, allowed: NDArray[np.integer] | None, blocked: NDArray[np.integer] | None
    ) -> NDArray[np.bool_] | None:
        """bool[largest item_idx + 1], None where every item may be found."""
        if allowed is None and blocked is None:
            return None
        size = int(self.item_ids.item_idx[-1]) + 1
        mask = np.zeros(size, np.bool_)
        mask[self.item_ids.item_idx if allowed is None else _inside(allowed, size)] = True
        if blocked is not None:
            mask[_inside(blocked, size)] = False
        return mask

    def _check_queries(self, queries: Floats) -> Floats:
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.space.dim:
            raise QueryError(f"queries are {queries.shape}, the index takes [Q, {self.space.dim}]")
        if not np.isfinite(queries).all():
            raise QueryError("queries hold NaN or infinite values; look at the vectors they were built from")
        return queries


def join_shards(kind: str, shards: list[FaissIndex]) -> list[FaissIndex]:
    """One IVF index with the lists of all shards, which are emptied; where that cannot be, the shards as they are.

    Every list is put in ascending id, as if all vectors had been added to one index in that order.
    """
    joined = shards[0]
    if not is_joinable(kind, joined):
        return shards
    for shard in shards[1:]:
        joined.merge_from(shard, 0)
    if len(shards) > 1:
        for list_no in range(joined.nlist):
            _sort_list(joined.invlists, list_no)
    return [joined]


def is_joinable(kind: str, shard: FaissIndex) -> bool:
    """Whether lists are plain arrays: not those of 4-bit codes, which are packed for fast scanning."""
    return kind.startswith("ivf") and isinstance(faiss.downcast_InvertedLists(shard.invlists), faiss.ArrayInvertedLists)


def _sort_list(lists: Any, list_no: int) -> None:
    size, width = lists.list_size(list_no), lists.code_size
    if size == 0:
        return
    ids = faiss.rev_swig_ptr(lists.get_ids(list_no), size)
    codes = faiss.rev_swig_ptr(lists.get_codes(list_no), size * width).reshape(size, width)
    order = np.argsort(ids)
    ids[:], codes[:] = ids[order], codes[order]


def search_lists(
    shard: FaissIndex, points: Floats, k: int, lists: Ids, list_distances: Floats, parameters: Any
) -> tuple[Floats, Ids]:
    """(distances, ids) of one IVF index over given lists [Q, nprobe]; faiss's own wrapper takes no parameters."""
    distances = np.empty((len(points), k), np.float32)
    ids = np.empty((len(points), k), np.int64)
    pointers = [faiss.swig_ptr(a) for a in (lists, list_distances, distances, ids)]
    shard.search_preassigned_c(len(points), faiss.swig_ptr(points), k, *pointers, False, parameters)
    return distances, ids


def _inside(item_idx: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    ids = np.asarray(item_idx, np.int64)
    return ids[(ids >= 0) & (ids < size)]
