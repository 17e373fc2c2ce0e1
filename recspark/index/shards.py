"""The faiss indexes of all shards, asked as if they were one: quantised once, merged exactly, ties by smaller id.

Shards of one training may also be joined in memory when they are opened: each answer then costs what one index costs
(measured: 8 shards asked one by one take three times the cpu, most of it for distance tables made 8 times).
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recspark.errors import IndexBuildError
from recspark.index.engine import FaissIndex, faiss, inner_index, rotation_of
from recspark.index.estimate import HNSW_LINKS
from recspark.index.lists import InvertedLists
from recspark.index.metric import Floats
from recspark.index.scope import Scope
from recspark.index.topk import NO_ID, Ids, smallest_k

_TIE_ROOM = {False: 1, True: 16}
"""Places asked for beyond k, by whether codes have 4 bits: their distances are sums of small integers, often equal."""
_TIE_GROWTH = 4
_MOST_TIES = 4096
"""Where more than so many items tie with the k-th, which of them are listed is left to faiss."""


class Shards:
    """Searches may run in several threads at once: nothing is changed by them."""

    def __init__(self, kind: str, shards: list[FaissIndex]) -> None:
        self.kind = kind
        self._outer = shards  # they own what is behind their rotations
        self.indexes = [inner_index(shard) for shard in shards]
        self._rotation = rotation_of(shards[0])
        self._num_vectors = sum(int(shard.ntotal) for shard in self.indexes)
        self._tie_room = _TIE_ROOM[isinstance(self.indexes[0], faiss.IndexIVFPQFastScan)]

    def nearest(self, points: Floats, k: int, scope: Scope) -> tuple[Floats, Ids]:
        """The k nearest of all shards, (distances, ids), each [Q, k]; ties go to the smaller id.

        faiss keeps any of the items that tie with the k-th; so more are asked for until the ties are complete, and
        which are listed does not depend on how items are spread over shards. A graph's search is no scan: there,
        shards do differ.
        """
        if self._rotation is not None:
            points = self._rotation.apply(points)
        if self.kind == "hnsw":
            return self._nearest_in_graphs(points, k, scope)
        lists = self._lists.choose(points, scope) if self.kind.startswith("ivf") else None
        return self._scan(self.indexes, points, k, scope.selector, lists)

    def _scan(
        self, indexes: list[FaissIndex], points: Floats, k: int, selector: Any, lists: tuple[Floats, Ids] | None = None
    ) -> tuple[Floats, Ids]:
        """The k nearest of all vectors, or of those in the chosen ``lists``, with complete ties."""
        fetch = min(k + self._tie_room, max(self._num_vectors, k))
        distances, ids = _ask(indexes, points, fetch, selector, lists)
        is_open = _ends_in_a_tie(distances, ids, k)
        while is_open.any() and fetch < self._num_vectors and fetch < k + _MOST_TIES:
            fetch = min(fetch * _TIE_GROWTH, self._num_vectors)
            more = _ask(indexes, points[is_open], fetch, selector, lists and (lists[0][is_open], lists[1][is_open]))
            distances[is_open, :k], ids[is_open, :k] = more[0][:, :k], more[1][:, :k]
            is_open[is_open] = _ends_in_a_tie(*more, k)
        return distances[:, :k], ids[:, :k]

    def _nearest_in_graphs(self, points: Floats, k: int, scope: Scope) -> tuple[Floats, Ids]:
        """By the graphs; by a scan of their vectors where the steps would compare as many, and for queries whose steps
        see too few items that may be found.
        """
        selector, effort, depth = scope.selector, scope.effort, k
        if scope.num_results and selector:
            depth = max(k, scope.num_seen)
            effort = effort * self._num_vectors // max(scope.num_allowed, 1)
            if scope.num_allowed <= effort * HNSW_LINKS:
                return self._scan(self._flat, points, k, selector)
        distances, ids = self._ask_graphs(points, depth, effort, selector)
        is_short = (ids != NO_ID).sum(axis=1) < min(depth, scope.num_allowed)
        if scope.num_results and is_short.any():
            found = self._scan(self._flat, points[is_short], k, selector)
            distances[is_short, :k], ids[is_short, :k] = found
        return distances[:, :k], ids[:, :k]

    def _ask_graphs(self, points: Floats, k: int, effort: int, selector: Any) -> tuple[Floats, Ids]:
        chosen = {"sel": selector} if selector else {}
        parameters = faiss.SearchParametersHNSW(efSearch=max(min(effort, self._num_vectors), k), **chosen)
        return _merge([shard.search(points, k, params=parameters) for shard in self.indexes], k)

    @cached_property
    def _lists(self) -> InvertedLists:
        return InvertedLists(self.indexes)

    @cached_property
    def _flat(self) -> list[FaissIndex]:
        """Graphs without their links: the same vectors, scanned."""
        return [_without_links(shard) for shard in self.indexes]

    def merge(self) -> FaissIndex:
        """One plain faiss index, rotation included, of all shards, which are emptied.

        Raises: IndexBuildError where faiss cannot: 4-bit codes are packed, graphs are linked.
        """
        if len(self.indexes) > 1 and (self.kind == "hnsw" or self._tie_room > 1):
            what = "a graph" if self.kind == "hnsw" else "4-bit codes"
            raise IndexBuildError(f"index.single_file: faiss cannot join {what} of several shards; leave it out")
        for shard in self.indexes[1:]:
            self.indexes[0].merge_from(shard, 0)
        self._outer[0].ntotal = self.indexes[0].ntotal
        return self._outer[0]


def _ask(
    indexes: list[FaissIndex], points: Floats, k: int, selector: Any, lists: tuple[Floats, Ids] | None
) -> tuple[Floats, Ids]:
    """The k nearest of all indexes, in the same (distances, lists) [Q, W] where some were chosen."""
    chosen = {"sel": selector} if selector else {}
    if lists is None:
        parameters = faiss.SearchParameters(**chosen) if chosen else None
        return _merge([index.search(points, k, params=parameters) for index in indexes], k)
    parameters = faiss.SearchParametersIVF(nprobe=lists[1].shape[1], **chosen)
    return _merge([search_lists(index, points, k, lists[1], lists[0], parameters) for index in indexes], k)


def _merge(found: list[tuple[Floats, Ids]], k: int) -> tuple[Floats, Ids]:
    return smallest_k(np.hstack([d for d, _ in found]), np.hstack([i for _, i in found]), k)


def _without_links(shard: FaissIndex) -> FaissIndex:
    """The vectors and ids of a graph as a flat index, which borrows the vectors."""
    empty = faiss.IndexFlatL2(shard.d)
    flat = faiss.IndexIDMap(empty)  # takes none that holds vectors
    flat.index, flat.id_map, flat.ntotal = faiss.downcast_index(shard.index).storage, shard.id_map, shard.ntotal
    flat.referenced_objects = [shard]
    return flat


def _ends_in_a_tie(distances: Floats, ids: Ids, k: int) -> NDArray[np.bool_]:
    """bool[Q]: whether all that was found from the k-th on is as far as the k-th, so that more may tie with it."""
    is_open: NDArray[np.bool_] = (distances[:, k - 1] == distances[:, -1]) & (ids[:, -1] != NO_ID)
    return is_open


def join_shards(kind: str, shards: list[FaissIndex]) -> list[FaissIndex]:
    """One IVF index with the lists of all shards, which are emptied; where that cannot be, the shards as they are.

    Every list is put in ascending id, as if all vectors had been added to one index in that order.
    """
    if not is_joinable(kind, shards[0]):
        return shards
    joined = inner_index(shards[0])
    for shard in shards[1:]:
        joined.merge_from(inner_index(shard), 0)
    if len(shards) > 1:
        for list_no in range(joined.nlist):
            _sort_list(joined.invlists, list_no)
    shards[0].ntotal = joined.ntotal
    return shards[:1]


def is_joinable(kind: str, shard: FaissIndex) -> bool:
    """Whether lists are plain arrays: not those of 4-bit codes, which are packed for fast scanning."""
    if not kind.startswith("ivf"):
        return False
    return isinstance(faiss.downcast_InvertedLists(inner_index(shard).invlists), faiss.ArrayInvertedLists)


def remove_items(shard: FaissIndex, item_idx: Ids) -> None:
    """Takes items out of a flat or IVF index in memory; those that it does not hold are no mistake."""
    inner = inner_index(shard)
    inner.remove_ids(np.ascontiguousarray(item_idx, np.int64))
    shard.ntotal = inner.ntotal


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
    points, lists = np.ascontiguousarray(points), np.ascontiguousarray(lists)
    list_distances = np.ascontiguousarray(list_distances)
    distances = np.empty((len(points), k), np.float32)
    ids = np.empty((len(points), k), np.int64)
    pointers = [faiss.swig_ptr(a) for a in (lists, list_distances, distances, ids)]
    shard.search_preassigned_c(len(points), faiss.swig_ptr(points), k, *pointers, False, parameters)
    return distances, ids
