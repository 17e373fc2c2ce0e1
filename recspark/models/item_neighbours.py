"""Neighbours of items by short random walks over the user-item graph: the items that walks from one visit most.

    item 7 -> user 3 -> item 9 -> user 5 -> item 2, back to item 7 ...                  so many walks
    visits  9: 12, 2: 5, 4: 1     ->     the two most visited: [9, 2], weights 12 / 17 and 5 / 17

Every draw is a function of (seed, item, walk, step): the same neighbours on any number of ranks. Source: Ying et al.
2018 (PinSage), section 3.2; there the graph is one of pins and boards, here of items and users.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray

from recspark.config.towers import NeighboursConfig
from recspark.walks.rng import GOLDEN, absorb, draw, unit

Ints = NDArray[np.int64]
NONE = -1
"""Behind an item's last neighbour; in `ItemNeighbours.via`: several users."""


@dataclass(frozen=True)
class Near:
    """Some items [I] with their neighbours, as places among all the items that are needed for them.

    ``items`` int64 [J] ascending are the items themselves and their neighbours, ``own`` int64 [I] the places of the
    former. The neighbours of the i-th are ``places[starts[i]:starts[i + 1]]`` (int64 [E]; the last ones to the end),
    ``weights`` float32 [E] add up to 1 for each that has any.
    """

    items: Ints
    own: Ints
    starts: Ints
    places: Ints
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class ItemNeighbours:
    """The neighbours of n items, most visited first.

    ``items``, ``visits``, ``via`` are int32 [n, T]; ``via`` is the user through whom all walks left that got to the
    neighbour, `NONE` where they were several. ``num_users`` is U.
    """

    items: NDArray[np.int32]
    visits: NDArray[np.int32]
    via: NDArray[np.int32]
    num_users: int

    def near(self, items: Ints, left_out: Ints | None = None) -> Near:
        """Distinct ``items`` with their neighbours, but for those that only a user of ``left_out`` has with them.

        Cost: n + U + I x T.
        """
        found, visits = self.items[items], self.visits[items]
        is_there = found != NONE
        if left_out is not None:
            is_out = np.zeros(self.num_users + 1, np.bool_)  # its last stands for NONE
            is_out[left_out] = True
            is_there &= ~is_out[self.via[items]]
        visits = visits * is_there
        weights = visits / np.maximum(visits.sum(1, keepdims=True), 1)
        is_needed = np.zeros(len(self.items), np.bool_)
        is_needed[items] = is_needed[found[is_there]] = True
        place, lengths = np.cumsum(is_needed) - 1, is_there.sum(1)
        starts = np.cumsum(lengths) - lengths
        shares = weights[is_there].astype(np.float32)
        return Near(np.flatnonzero(is_needed), place[items], starts, place[found[is_there]], shares)


def find_neighbours(
    users_of_item: sp.csr_array, items_of_user: sp.csr_array, config: NeighboursConfig, seed: int
) -> ItemNeighbours:
    """The most visited items of each row of ``users_of_item`` [n, U], by walks over ``items_of_user`` [U, V].

    V <= n: walks start from the rows behind the first V too, such as new items, but never reach them. Entries count by
    being there. Cost: two reads at random of the graph a step, by one core.

    Raises: ValueError when the two are not of the same users, or an item of a user has no row.
    """
    if users_of_item.shape[1] != items_of_user.shape[0] or users_of_item.shape[0] < items_of_user.shape[1]:
        raise ValueError(
            f"users_of_item is {users_of_item.shape} and items_of_user {items_of_user.shape}; expected a column a user "
            f"and at least {items_of_user.shape[1]} rows"
        )
    shape = (users_of_item.shape[0], config.count)
    found, visits, via = np.full(shape, NONE, np.int32), np.zeros(shape, np.int32), np.full(shape, NONE, np.int32)
    _fill(
        *_rows(users_of_item), *_rows(items_of_user), np.uint64(seed), config.num_walks, config.walk_length,
        config.restart_probability, found, visits, via,
    )  # fmt: skip
    return ItemNeighbours(found, visits, via, items_of_user.shape[0])


def _rows(matrix: sp.csr_array) -> tuple[NDArray[Any], NDArray[Any]]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32)


@njit(cache=True, nogil=True)
def _fill(user_starts, users, item_starts, items, seed, num_walks, walk_length, restart, found, visits, via):  # type: ignore[no-untyped-def]
    seen = np.empty(num_walks * walk_length, np.int64)
    for item in range(len(found)):
        key, num_seen = absorb(absorb(GOLDEN, seed), item), 0
        for walk in range(num_walks):
            num_seen = _walk(
                item, absorb(key, walk), user_starts, users, item_starts, items, walk_length, restart, seen, num_seen
            )
        _keep_most_visited(np.sort(seen[:num_seen]), found[item], visits[item], via[item])


@njit(cache=True, nogil=True)
def _walk(start, key, user_starts, users, item_starts, items, walk_length, restart, seen, num_seen):  # type: ignore[no-untyped-def]
    """Adds each visit to ``seen``: the item above the user through whom the walk last left its start."""
    at, through = np.int64(start), np.int64(0)
    for step in range(walk_length):
        if step > 0 and unit(draw(key, 3 * step)) < restart:
            break
        user = _choose(user_starts, users, at, draw(key, 3 * step + 1))
        if user == NONE:
            break
        if at == start:
            through = user
        at = _choose(item_starts, items, user, draw(key, 3 * step + 2))
        if at == NONE:
            break
        if at != start:
            seen[num_seen] = (at << 32) | through
            num_seen += 1
    return num_seen


@njit(cache=True, nogil=True)
def _choose(starts, values, row, bits):  # type: ignore[no-untyped-def]
    """One of a row's values, all alike; `NONE` of an empty row."""
    length = starts[row + 1] - starts[row]
    if length == 0:
        return np.int64(NONE)
    return np.int64(values[starts[row] + np.int64(unit(bits) * length)])


@njit(cache=True, nogil=True)
def _keep_most_visited(seen, found, visits, via):  # type: ignore[no-untyped-def]
    """From the sorted visits of an item's walks; of equally many the smaller item."""
    items, counts, users = np.empty(len(seen), np.int64), np.zeros(len(seen), np.int64), np.empty(len(seen), np.int64)
    num_items = 0
    for place in range(len(seen)):
        item, user = seen[place] >> 32, seen[place] & 0xFFFFFFFF
        if num_items == 0 or items[num_items - 1] != item:
            items[num_items], users[num_items] = item, user
            num_items += 1
        elif users[num_items - 1] != user:
            users[num_items - 1] = NONE
        counts[num_items - 1] += 1
    order = np.argsort(-counts[:num_items], kind="mergesort")
    for place in range(min(num_items, len(found))):
        chosen = order[place]
        found[place], visits[place], via[place] = items[chosen], counts[chosen], users[chosen]
