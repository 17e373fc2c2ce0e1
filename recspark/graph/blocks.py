"""The plan before the work: what the pairs will cost, into how many blocks of items they go, and what a task holds.

Stats in (units and cost of each item, lengths of the units), plan out: item -> block, or item -> hot row.

The *cost* of an item is the sum of the lengths of the units that hold it: the steps its row takes. Blocks are runs of
items by popularity with about equal cost; a unit travels once to each block that owns one of its items. An item dearer
than a share of a block is *hot*: map tasks sum its row themselves and send partial rows.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recspark.errors import DataError

HOT_SHARE = 0.5
"""Of a block's cost: an item dearer than this is hot, as far as its dense row fits."""
HOT_MEMORY_SHARE = 0.25
"""Of a task's memory that dense hot rows may take."""
MIN_BLOCK_COST = 5_000_000
"""Steps below which another task costs more than it saves (a tenth of a second of kernel)."""
BLOCKS_A_CORE = 3
PACK_VALUES = 8_000_000
"""Items that one packed batch may hold (32 MB)."""
ROW_BUFFER = 1 << 20
"""Neighbours that a reduce task gathers before it hands a batch on."""
ROW_BYTES = 16
"""Of a neighbour: id, score or sum, count."""
POSTING_BYTES = 4
POINTER_BYTES = 8
MB = 1 << 20
NUM_SHOWN = 5
"""Items, units and users that the plan names, biggest first."""


@dataclass
class UnitStats:
    """Counts over all units, additive over partitions; ``newest_us``, ``longest`` and ``max_`` join by maximum."""

    unit_counts: NDArray[np.int64]
    """Units that hold each item [num_items]."""
    costs: NDArray[np.int64]
    """Sum of the lengths of an item's units that have a pair [num_items]."""
    lengths: NDArray[np.int64]
    """Units that have a pair, by number of events (after the cap)."""
    num_units: int = 0
    num_events: int = 0
    """Events of all units, before the caps."""
    num_pairs: int = 0
    """Unordered pairs of different items, without regard to a window."""
    capped_units: int = 0
    capped_events: int = 0
    capped_users: int = 0
    capped_user_events: int = 0
    bad_weights: int = 0
    """Event weights that are negative or no number."""
    longest: int = 0
    """Events of the longest unit, after the caps."""
    max_item_weight: float = 0.0
    newest_us: int = -(2**62)
    num_users: int = 0
    """Where support counts users."""
    largest: list[int] = field(default_factory=list)
    """Events of the `NUM_SHOWN` largest units before the cap on units, largest first."""
    user_counts: NDArray[np.int64] | None = None
    """Where support counts users: those that hold each item [num_items]."""

    @property
    def pair_cost(self) -> int:
        """Steps of the whole job: the sum of squared lengths."""
        return int(self.costs.sum())


@dataclass(frozen=True)
class BlockPlan:
    """Which block or hot row owns each item, and what that is expected to cost."""

    block_of: NDArray[np.int32]
    """[num_items]: a block, or -1 - h for the h-th hot item."""
    num_blocks: int
    hot_items: NDArray[np.int32]
    shuffle_bytes: int
    """Expected, before compression, if items were spread over blocks at random (skew makes it less)."""
    task_bytes: int
    """Most that one task holds."""

    @property
    def num_tasks(self) -> int:
        """Partitions of the shuffle: blocks, then hot items."""
        return self.num_blocks + len(self.hot_items)


@dataclass(frozen=True)
class Costs:
    """Bytes of the things a task holds."""

    per_event: int
    """Of a packed unit."""
    per_unit: int
    per_item: int
    """Of dense arrays over all items: accumulator, score terms, owner."""
    per_hot_item: int
    """Of one hot item's dense row, for each item."""


def byte_costs(ordered: bool, has_unit_weights: bool, has_item_weights: bool, by_user: bool = False) -> Costs:
    """What packed units and dense rows take, by the weights in use and what support counts."""
    accumulator = 8 + (8 if has_unit_weights else 0) + (12 if ordered else 0) + (4 if by_user else 0)
    return Costs(
        per_event=4 + (4 if has_item_weights else 0),
        per_unit=4 + (8 if has_unit_weights else 0) + (4 if by_user else 0),
        per_item=accumulator + 2 * 8 + 4 + 4,
        per_hot_item=accumulator + (4 if by_user else 0),
    )


def plan_blocks(
    stats: UnitStats, costs: Costs, *, num_cores: int, task_memory_mb: int, num_blocks: int | None = None
) -> BlockPlan:
    """Blocks of equal cost, as many as cores and memory ask for, or as many as told.

    Raises: DataError when a task cannot stay within ``task_memory_mb``, with the setting that would help.
    """
    budget = task_memory_mb * MB
    fixed = len(stats.costs) * costs.per_item + ROW_BYTES * max(ROW_BUFFER, len(stats.costs))
    if fixed > budget // 2:
        raise DataError(
            f"graph.task_memory_mb is {task_memory_mb}, but dense rows over {len(stats.costs):,} items take "
            f"{fixed // MB + 1:,} MB of each task, and units need room beside them; set graph.task_memory_mb to at "
            f"least {2 * fixed // MB + 1:,}, or drop rare items (vocabulary.min_item_events)"
        )
    most_blocks = max(1, int(np.count_nonzero(stats.costs)))
    by_cores = min(BLOCKS_A_CORE * num_cores, stats.pair_cost // MIN_BLOCK_COST)
    wanted = num_blocks or max(1, min(by_cores, most_blocks))
    while True:
        plan = _plan_so_many(stats, costs, wanted, budget, fixed)
        if plan.task_bytes <= budget:
            return plan
        is_pack_too_large = fixed + _packed_bytes(stats, costs, wanted) > budget  # only grows with more blocks
        if num_blocks or wanted == most_blocks or is_pack_too_large:
            raise DataError(_advise(stats, plan, task_memory_mb))
        wanted = min(math.ceil(1.5 * wanted), most_blocks)


def _plan_so_many(stats: UnitStats, costs: Costs, num_blocks: int, budget: int, fixed: int) -> BlockPlan:
    num_items = len(stats.costs)
    hot_room = int(budget * HOT_MEMORY_SHARE) // max(1, num_items * costs.per_hot_item)
    hot_items = _find_hot_items(stats.costs, num_blocks, hot_room)
    block_of = cut_blocks(stats.costs, stats.unit_counts, num_blocks, hot_items)
    map_bytes = len(hot_items) * num_items * costs.per_hot_item + _packed_bytes(stats, costs, num_blocks)
    reduce_bytes = _held_bytes(_largest_block(stats.costs, block_of, num_blocks), stats, costs)
    shuffle_bytes = expected_shuffle_bytes(stats, costs, num_blocks)
    return BlockPlan(block_of, num_blocks, hot_items, shuffle_bytes, fixed + max(map_bytes, reduce_bytes))


def cut_blocks(
    costs: NDArray[np.int64], unit_counts: NDArray[np.int64], num_blocks: int, hot_items: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Owner of each item [num_items]: runs of equal cost in order of popularity, hot items as -1 - h."""
    order = np.argsort(-unit_counts, kind="stable")
    cold = costs.copy()
    cold[hot_items] = 0
    ends = np.cumsum(cold[order])
    total = max(1, int(ends[-1])) if len(ends) else 1
    # The middle of an item's own span decides, in float64: cost times blocks may overflow 63 bits.
    middles = ends - cold[order] / 2
    block_of = np.empty(len(costs), np.int32)
    block_of[order] = np.minimum(middles / total * num_blocks, num_blocks - 1).astype(np.int32)
    block_of[hot_items] = -1 - np.arange(len(hot_items), dtype=np.int32)
    return block_of


def expected_shuffle_bytes(stats: UnitStats, costs: Costs, num_blocks: int) -> int:
    """Bytes of all packed units when each event falls into a block at random."""
    lengths = np.arange(len(stats.lengths), dtype=np.float64)
    copies = num_blocks * (1 - (1 - 1 / num_blocks) ** lengths)
    return int((stats.lengths * copies * (lengths * costs.per_event + costs.per_unit)).sum())


def _held_bytes(block_cost: int, stats: UnitStats, costs: Costs) -> int:
    """Most bytes of a block's units and postings, at worst: each item has units of its own, and short ones.

    Units count twice, because the parts that arrive are joined.
    """
    events = np.cumsum(stats.lengths * np.arange(len(stats.lengths)))  # of the units up to each length
    num_events = min(block_cost, int(events[-1]) if len(events) else 0)
    whole = int(np.searchsorted(events, num_events, side="right"))  # lengths below this are in with all their units
    num_units = int(stats.lengths[:whole].sum())
    if whole < len(events):
        num_units += (num_events - int(events[whole - 1])) // whole + 1
    return (
        2 * (num_events * costs.per_event + num_units * (costs.per_unit + POINTER_BYTES)) + POSTING_BYTES * num_events
    )


def _packed_bytes(stats: UnitStats, costs: Costs, num_blocks: int) -> int:
    """Most bytes of one packed batch: the longest unit alone may exceed the usual size."""
    longest = stats.longest * min(stats.longest, num_blocks)
    total = int((stats.lengths * np.arange(len(stats.lengths))).sum()) * num_blocks
    return 2 * max(min(PACK_VALUES, total), longest) * costs.per_event


def _find_hot_items(costs: NDArray[np.int64], num_blocks: int, max_hot_items: int) -> NDArray[np.int32]:
    """Items dearer than a share of a block, dearest first, no more than ``max_hot_items``; none for one block."""
    if num_blocks < 2:
        return np.empty(0, np.int32)
    dear = np.flatnonzero(costs > HOT_SHARE * costs.sum() / num_blocks)
    dearest = dear[np.argsort(-costs[dear], kind="stable")]
    return dearest[:max_hot_items].astype(np.int32)


def _largest_block(costs: NDArray[np.int64], block_of: NDArray[np.int32], num_blocks: int) -> int:
    cold = block_of >= 0
    by_block = np.zeros(num_blocks, np.int64)
    np.add.at(by_block, block_of[cold], costs[cold])
    return int(by_block.max())


def _advise(stats: UnitStats, plan: BlockPlan, task_memory_mb: int) -> str:
    dearest, task_mb = int(np.argmax(stats.costs)), plan.task_bytes // MB + 1
    return (
        f"graph.task_memory_mb is {task_memory_mb}, but with {plan.num_blocks} blocks one task may hold "
        f"{task_mb:,} MB (longest unit {stats.longest:,} events, dearest item {dearest} in "
        f"{int(stats.unit_counts[dearest]):,} of {stats.num_units:,} units); set graph.task_memory_mb to at least "
        f"{task_mb:,}, raise graph.num_blocks, or lower graph.max_session_items"
    )
