"""Which inverted lists answer a query: the nearest, and as many more as it takes to see enough items.

nprobe 2, 30 items to see, lists by distance of 20, 5, 0, 10 and 40 allowed items  ->  the first, second and fourth
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recspark.index.engine import FaissIndex, faiss
from recspark.index.metric import Floats
from recspark.index.scope import Scope
from recspark.index.topk import NO_ID, Ids

_MOSTLY = 0.8
_FILTERED = 4
"""With a filter a query is off its items: its nearest lists need not hold its nearest items, so it takes more of them
(measured on the far side of a query: once what the effort sees finds .62 to .90 of the exact results, twice .84 to .98,
four times .96 to 1)."""


class InvertedLists:
    """The lists of all shards of one training, which share their quantizer: a list is the same one in every shard."""

    def __init__(self, indexes: list[FaissIndex]) -> None:
        self._indexes, self._quantizer = indexes, indexes[0].quantizer
        self.nlist = int(indexes[0].nlist)

    def choose(self, points: Floats, scope: Scope) -> tuple[Floats, Ids]:
        """The lists to search, (distances, lists), each [Q, W]; a list of -1 is none.

        A query is answered from its nearest ``effort`` lists where these hold ``num_seen`` items and a filter leaves
        most of them; from more lists, by distance, where not, with a filter until these hold four times what as many
        lists hold without it. Lists without an item that may be found are passed over. All shards' items count
        together, so that however they are spread, the same lists are searched.
        """
        nprobe = min(scope.effort, self.nlist)
        distances, lists = self._quantizer.search(points, nprobe)
        if not scope.num_results:
            return distances, lists
        num_held, num_all = self._count(scope.is_allowed), self._count(None)
        held, num_seen = num_held[lists].sum(axis=1), scope.num_seen
        is_short = held < num_seen
        if scope.is_allowed is not None:
            is_short |= held < _MOSTLY * num_all[lists].sum(axis=1)
            num_seen = max(num_seen, _FILTERED * nprobe * int(num_all.sum()) // self.nlist)
        if not is_short.any():
            return distances, lists
        wider, more = self._quantizer.search(points[is_short], self.nlist)
        wider, more = keep_enough(wider, more, num_held, num_seen, nprobe)
        room = ((0, 0), (0, max(more.shape[1] - lists.shape[1], 0)))
        distances, lists = np.pad(distances, room), np.pad(lists, room, constant_values=NO_ID)
        lists[is_short] = NO_ID
        distances[is_short, : more.shape[1]], lists[is_short, : more.shape[1]] = wider, more
        return distances, lists

    def _count(self, is_allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Items of each list that may be found."""
        if is_allowed is None:
            return self._lengths
        before = np.concatenate([[0], np.cumsum(is_allowed[self._ids])])
        counts: NDArray[np.int64] = np.diff(before[np.concatenate([[0], np.cumsum(self._lengths)])])
        return counts

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        """Items of each list [nlist]."""
        sizes = [[index.invlists.list_size(n) for n in range(self.nlist)] for index in self._indexes]
        lengths: NDArray[np.int64] = np.array(sizes, np.int64).sum(axis=0)
        return lengths

    @cached_property
    def _ids(self) -> NDArray[np.int32]:
        """All item_idx, list by list: 4 bytes an item, made by the first search with a filter."""
        parts = [np.empty(0, np.int32)]
        for list_no in range(self.nlist):
            for index in self._indexes:
                if size := index.invlists.list_size(list_no):
                    parts.append(faiss.rev_swig_ptr(index.invlists.get_ids(list_no), size).astype(np.int32))
        return np.concatenate(parts)


def keep_enough(
    distances: Floats, lists: Ids, num_held: NDArray[np.int64], num_seen: int, nprobe: int
) -> tuple[Floats, Ids]:
    """Of all lists [Q, nlist], nearest first, those that hold anything, up to the one where ``num_seen`` are together,
    and of the first ``nprobe`` all; (distances, lists), cut to the longest row, which others fill up with -1.
    """
    held = num_held[lists]
    is_kept = (held > 0) & ((np.cumsum(held, axis=1) - held < num_seen) | (np.arange(lists.shape[1]) < nprobe))
    order = np.argsort(~is_kept, axis=1, kind="stable")[:, : max(int(is_kept.sum(axis=1).max()), 1)]
    kept = np.where(is_kept, lists, NO_ID)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(kept, order, axis=1)
