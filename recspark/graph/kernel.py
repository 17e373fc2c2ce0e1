# mypy: warn-return-any=False
"""Co-occurrence kernels: arrays in, arrays out, no Spark. Every sum is an integer, so arrival order changes nothing.

One unit (a session or a user's history) in: items [4, 9, 4]. Rows out: 4 -> [9], 9 -> [4], with weighted sum and
support. The steps are those of the Spark plan: `prepare_units` -> `count_units` (stats), `pack_units` (map side),
`build_postings`, `add_pairs` and `recspark.graph.top_n` (reduce side). What a pair weighs: `recspark.graph.pairs`.

Source: Gustavson 1978 (row-wise sparse product with a dense accumulator).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

PLAIN, UNIT_WEIGHTS, ITEM_WEIGHTS, ORDERED = range(4)
"""How pairs are weighed, cheapest first: all alike; by unit; by unit and items; by distance as well."""


class Units(NamedTuple):
    """Prepared units: those of unit u are ``items[indptr[u]:indptr[u + 1]]``."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    item_weights: NDArray[np.float32]
    """Beside ``items``: the item's total event weight in its unit; empty where event weights are not used."""
    weights: NDArray[np.float64]
    """One a unit: length and recency; empty in PLAIN mode."""
    users: NDArray[np.int32]
    """One a unit, where support counts users; else empty."""


class PairRule(NamedTuple):
    """How a unit's pairs are weighed."""

    mode: int
    has_item_weights: bool
    window: int
    """Largest distance of a pair, in places."""
    decay: NDArray[np.float64]
    """Factor by distance; place 0 is unused."""
    scale: float
    """Weights are summed as integers: ``floor(weight * scale + .5)``; a power of two."""


class Accumulator(NamedTuple):
    """One row of the product, dense; all zero between rows."""

    sums: NDArray[np.int64]
    """Fixed-point weights by item; unused in PLAIN mode."""
    counts: NDArray[np.int32]
    touched: NDArray[np.int32]
    """Items with a count, in order of arrival; one longer than the items, for branch-free writing."""
    nearest: NDArray[np.int32]
    """Of ORDERED: smallest distance in the unit at hand by item, 0 = not seen."""
    found: NDArray[np.int64]
    """Of ORDERED: where each item of the unit at hand was first seen."""
    last_user: NDArray[np.int32]
    """Where support counts users: the user that last counted by item, -1 = none."""


def new_accumulator(num_items: int, mode: int, by_user: bool) -> Accumulator:
    """An empty accumulator; costs 8 bytes an item in PLAIN mode, 16 with weights, 28 with order, 4 more by user."""
    ordered = mode == ORDERED
    return Accumulator(
        np.zeros(1 if mode == PLAIN else num_items, np.int64),
        np.zeros(num_items, np.int32),
        np.empty(num_items + 1, np.int32),
        np.zeros(num_items if ordered else 1, np.int32),
        np.empty(num_items if ordered else 1, np.int64),
        np.full(num_items if by_user else 1, -1, np.int32),
    )


@njit(cache=True, nogil=True)
def prepare_units(
    offsets: Any, values: Any, event_weights: Any, use_weights: bool, ordered: bool, max_items: int, slots: Any
) -> Any:
    """Cuts each unit to its newest ``max_items`` events and, unless order matters, keeps an item's first place only.

    An item's weight in a unit is the sum of its events' weights, written to each of its places. ``slots`` int32
    [num_items] is all -1 before and after. Returns (indptr, items, item_weights, distinct items a unit).
    """
    num_units = len(offsets) - 1
    indptr = np.zeros(num_units + 1, np.int64)
    distinct = np.zeros(num_units, np.int32)
    items = np.empty(offsets[num_units] - offsets[0], np.int32)
    weights = np.empty(len(items) if use_weights else 0, np.float32)
    end = 0
    for unit in range(num_units):
        first = end
        for event in range(max(offsets[unit], offsets[unit + 1] - max_items), offsets[unit + 1]):
            item = values[event]
            slot = slots[item]
            if slot >= 0 and use_weights:
                weights[slot] += event_weights[event]
            if slot < 0 or ordered:
                items[end] = item
                if slot < 0:
                    slots[item] = end
                    distinct[unit] += 1
                    if use_weights:
                        weights[end] = event_weights[event]
                end += 1
        if ordered and use_weights:
            for place in range(first, end):
                weights[place] = weights[slots[items[place]]]
        for place in range(first, end):
            slots[items[place]] = -1
        indptr[unit + 1] = end
    return indptr, items[:end], weights[: end if use_weights else 0], distinct


@njit(cache=True, nogil=True)
def count_units(indptr: Any, items: Any, distinct: Any, slots: Any, unit_counts: Any, costs: Any) -> None:
    """Adds to each item the units that hold it, and its cost: the lengths of its units that have a pair at all."""
    for unit in range(len(indptr) - 1):
        start, stop = indptr[unit], indptr[unit + 1]
        length = stop - start if distinct[unit] > 1 else 0
        for place in range(start, stop):
            item = items[place]
            costs[item] += length
            if slots[item] < 0:
                slots[item] = place
                unit_counts[item] += 1
        for place in range(start, stop):
            slots[items[place]] = -1


@njit(cache=True, nogil=True)
def count_user_items(indptr: Any, items: Any, users: Any, last_user: Any, user_counts: Any) -> None:
    """Adds to each item the users that hold it; a user's units follow one another, over several calls too.

    ``last_user`` int32 [num_items] is all -1 before the first call.
    """
    for unit in range(len(indptr) - 1):
        for item in items[indptr[unit] : indptr[unit + 1]]:
            if last_user[item] != users[unit]:
                last_user[item] = users[unit]
                user_counts[item] += 1


@njit(cache=True, nogil=True)
def pack_units(units: Any, distinct: Any, first: int, last: int, block_of: Any, num_blocks: int) -> Any:
    """Copies units first..last-1 to every block that owns one of their items; ``block_of`` < 0: in no block.

    Returns (unit_ptr, item_ptr, lengths, items, item_weights, weights, users), the last five concatenated by block;
    those of block b are ``lengths[unit_ptr[b]:unit_ptr[b + 1]]`` and ``items[item_ptr[b]:item_ptr[b + 1]]``.
    """
    last_unit = np.full(num_blocks, -1, np.int64)
    unit_ptr = np.zeros(num_blocks + 1, np.int64)
    item_ptr = np.zeros(num_blocks + 1, np.int64)
    for unit in range(first, last):
        if distinct[unit] < 2:
            continue
        length = units.indptr[unit + 1] - units.indptr[unit]
        for place in range(units.indptr[unit], units.indptr[unit + 1]):
            block = block_of[units.items[place]]
            if block >= 0 and last_unit[block] != unit:
                last_unit[block] = unit
                unit_ptr[block + 1] += 1
                item_ptr[block + 1] += length
    for block in range(num_blocks):
        unit_ptr[block + 1] += unit_ptr[block]
        item_ptr[block + 1] += item_ptr[block]
    has_weights, has_item_weights = len(units.weights) > 0, len(units.item_weights) > 0
    has_users = len(units.users) > 0
    lengths = np.empty(unit_ptr[num_blocks], np.int32)
    weights = np.empty(unit_ptr[num_blocks] if has_weights else 0, np.float64)
    users = np.empty(unit_ptr[num_blocks] if has_users else 0, np.int32)
    items = np.empty(item_ptr[num_blocks], np.int32)
    item_weights = np.empty(item_ptr[num_blocks] if has_item_weights else 0, np.float32)
    next_unit, next_item = unit_ptr[:-1].copy(), item_ptr[:-1].copy()
    last_unit[:] = -1
    for unit in range(first, last):
        if distinct[unit] < 2:
            continue
        start, stop = units.indptr[unit], units.indptr[unit + 1]
        for place in range(start, stop):
            block = block_of[units.items[place]]
            if block < 0 or last_unit[block] == unit:
                continue
            last_unit[block] = unit
            lengths[next_unit[block]] = stop - start
            if has_weights:
                weights[next_unit[block]] = units.weights[unit]
            if has_users:
                users[next_unit[block]] = units.users[unit]
            next_unit[block] += 1
            to = next_item[block]
            for source in range(start, stop):
                items[to] = units.items[source]
                if has_item_weights:
                    item_weights[to] = units.item_weights[source]
                to += 1
            next_item[block] = to
    return unit_ptr, item_ptr, lengths, items, item_weights, weights, users


@njit(cache=True, nogil=True)
def build_postings(indptr: Any, items: Any, order: Any, local_of: Any, num_local: int) -> Any:
    """(ptr, units): the units of each local item in ``order``, a permutation of the units, or ascending where it is
    empty; a unit that repeats an item stands there repeatedly.

    ``local_of`` int32 [num_items]: an item's place among the local ones, or < 0.
    """
    ptr = np.zeros(num_local + 1, np.int64)
    for item in items:
        if local_of[item] >= 0:
            ptr[local_of[item] + 1] += 1
    for local in range(num_local):
        ptr[local + 1] += ptr[local]
    place = ptr[:-1].copy()
    units = np.empty(ptr[num_local], np.int32)
    for number in range(len(indptr) - 1):
        unit = order[number] if len(order) else number
        for event in range(indptr[unit], indptr[unit + 1]):
            local = local_of[items[event]]
            if local >= 0:
                units[place[local]] = unit
                place[local] += 1
    return ptr, units


@njit(cache=True, nogil=True)
def to_fixed(weight: float) -> int:
    """The nearest integer of a scaled weight >= 0."""
    return np.int64(weight + 0.5)  # type: ignore[return-value]


@njit(cache=True, nogil=True)
def _add_plain(posting: Any, units: Any, row: Accumulator, num_touched: int) -> int:
    for unit in posting:
        for place in range(units.indptr[unit], units.indptr[unit + 1]):
            other = units.items[place]
            count = row.counts[other]
            row.touched[num_touched] = other
            num_touched += 1 if count == 0 else 0
            row.counts[other] = count + 1
    return num_touched


@njit(cache=True, nogil=True)
def _add_by_unit(posting: Any, units: Any, scale: float, row: Accumulator, num_touched: int) -> int:
    for unit in posting:
        weight = to_fixed(units.weights[unit] * scale)
        for place in range(units.indptr[unit], units.indptr[unit + 1]):
            other = units.items[place]
            count = row.counts[other]
            row.touched[num_touched] = other
            num_touched += 1 if count == 0 else 0
            row.counts[other] = count + 1
            row.sums[other] += weight
    return num_touched


@njit(cache=True, nogil=True)
def _add_by_item(item: int, posting: Any, units: Any, scale: float, row: Accumulator, num_touched: int) -> int:
    for unit in posting:
        start, stop = units.indptr[unit], units.indptr[unit + 1]
        own = np.float64(0.0)
        for place in range(start, stop):
            if units.items[place] == item:
                own = np.float64(units.item_weights[place])
                break
        unit_weight = units.weights[unit] * scale
        for place in range(start, stop):
            other = units.items[place]
            count = row.counts[other]
            row.touched[num_touched] = other
            num_touched += 1 if count == 0 else 0
            row.counts[other] = count + 1
            # The product of the two items first: both directions of a pair round alike.
            row.sums[other] += to_fixed(unit_weight * (own * units.item_weights[place]))
    return num_touched


@njit(cache=True, nogil=True)
def _add_by_distance(item: int, posting: Any, units: Any, rule: Any, row: Accumulator, num_touched: int) -> int:
    previous = -1
    for unit in posting:
        if unit == previous:
            continue
        previous = unit
        start, stop = units.indptr[unit], units.indptr[unit + 1]
        own = np.float64(1.0)
        num_found = 0
        for place in range(start, stop):
            if units.items[place] != item:
                continue
            if rule.has_item_weights:
                own = np.float64(units.item_weights[place])
            for near in range(max(start, place - rule.window), min(stop, place + rule.window + 1)):
                other = units.items[near]
                if other == item:
                    continue
                distance = abs(near - place)
                if row.nearest[other] == 0:
                    row.found[num_found] = near
                    num_found += 1
                    row.nearest[other] = distance
                elif distance < row.nearest[other]:
                    row.nearest[other] = distance
        unit_weight = units.weights[unit] * rule.scale
        for n in range(num_found):
            near = row.found[n]
            other = units.items[near]
            weight = unit_weight * rule.decay[row.nearest[other]]
            if rule.has_item_weights:
                weight *= own * units.item_weights[near]
            row.nearest[other] = 0
            count = row.counts[other]
            row.touched[num_touched] = other
            num_touched += 1 if count == 0 else 0
            row.counts[other] = count + 1
            row.sums[other] += to_fixed(weight)
    return num_touched


@njit(cache=True, nogil=True)
def add_pairs(item: int, posting: Any, units: Any, rule: Any, row: Any, num_touched: int) -> int:
    """Adds the pairs of one item in its units (``posting``) to its row; the new number of touched items.

    The item itself may be among them: `select_row` leaves it out.
    """
    if rule.mode == PLAIN:
        return _add_plain(posting, units, row, num_touched)
    if rule.mode == UNIT_WEIGHTS:
        return _add_by_unit(posting, units, rule.scale, row, num_touched)
    if rule.mode == ITEM_WEIGHTS:
        return _add_by_item(item, posting, units, rule.scale, row, num_touched)
    return _add_by_distance(item, posting, units, rule, row, num_touched)


@njit(cache=True, nogil=True)
def count_users(item: int, posting: Any, units: Any, window: int, last_user: Any, user_counts: Any) -> None:
    """Adds the distinct users that pair one item with each other; ``posting`` has a user's units one after the other.

    ``last_user`` holds over calls with more units of the same item.
    """
    for unit in posting:
        start, stop = units.indptr[unit], units.indptr[unit + 1]
        for place in range(start, stop):
            if units.items[place] != item:
                continue
            for near in range(max(start, place - window), min(stop, place + window + 1)):
                other = units.items[near]
                if other != item and last_user[other] != units.users[unit]:
                    last_user[other] = units.users[unit]
                    user_counts[other] += 1


@njit(cache=True, nogil=True)
def add_row_sums(units: Any, distinct: Any, rule: Any, row: Any, row_sums: Any) -> None:
    """Adds each unit's share of every item's row sum (the total weight of the item's pairs), as `add_pairs` sums it."""
    posting = np.zeros(1, np.int32)
    for unit in range(len(units.indptr) - 1):
        if distinct[unit] < 2:
            continue
        start, stop = units.indptr[unit], units.indptr[unit + 1]
        if rule.mode <= UNIT_WEIGHTS:
            weight = to_fixed(units.weights[unit] * rule.scale) if rule.mode == UNIT_WEIGHTS else 1
            for place in range(start, stop):
                row_sums[units.items[place]] += weight * (stop - start - 1)
            continue
        posting[0] = unit
        for place in range(start, stop):
            item = units.items[place]
            is_repeat = False
            if rule.mode == ORDERED:
                for earlier in range(start, place):
                    if units.items[earlier] == item:
                        is_repeat = True
                        break
            if is_repeat:
                continue
            for n in range(add_pairs(item, posting, units, rule, row, 0)):
                other = row.touched[n]
                if other != item:
                    row_sums[item] += row.sums[other]
                row.sums[other] = 0
                row.counts[other] = 0
