"""An embedding table whose rows are spread over the ranks, outside DDP.

`nn.Embedding(sparse=True)` under DDP and NCCL does not work, and a dense all-reduce of a table is absurd: here a rank
asks the owners for the distinct rows of its batch and sends their gradients back, both by one all-to-all.

    layout = RowLayout(num_rows, world_size)
    plan = plan_route(layout, ids)                once a batch, ahead of its step
    route = find_route(layout, plan, ranks)       good for every table of the layout
    rows = table.lookup(route)                    float32 [len(ids), dim]
    table.apply_gradient(route, gradient, update) the owner adds up what all ranks send and updates its rows
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RowUpdate = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""(weight [n, dim], squares [n], rows [r] distinct, gradient [r, dim]) -> None, in place; may use the gradient up."""

_INIT_ROWS = 1 << 20  # made at once; the table itself is never held twice
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class Ranks(Protocol):
    """The processes that share a table."""

    @property
    def rank(self) -> int:
        """This process, 0..world_size-1."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    @property
    def device(self) -> str:
        """Where this rank's rows live."""

    def exchange(self, rows: Tensor, send_counts: Sequence[int], receive_counts: Sequence[int]) -> Tensor:
        """Sends ``rows``, cut by ``send_counts``, to ranks 0, 1, ...; what they sent, in rank order."""


class RowLayout:
    """Which rank holds which row: ids permuted by a fixed bijection, then contiguous ranges.

    Ids come sorted by popularity, so plain ranges would give one rank all the work. The bijection depends on the number
    of rows alone: a checkpoint is a table in *position* order and loads on any number of ranks. Ranges are those of
    `torch.chunk` (as DTensor cuts them): ceil(n / world_size) rows each, the last ones fewer.
    """

    def __init__(self, num_rows: int, world_size: int) -> None:
        self.num_rows, self.world_size = num_rows, world_size
        self.rows_per_rank = -(-num_rows // world_size)
        self._factor = _coprime_near(num_rows, int(num_rows * _GOLDEN_RATIO))
        self._inverse = pow(self._factor, -1, num_rows) if num_rows > 1 else 0

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows stand in position order; num_rows < 2^31, so the product fits."""
        return ids * self._factor % self.num_rows

    def ids(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The inverse of `positions`."""
        return positions * self._inverse % self.num_rows

    def range_of(self, rank: int) -> range:
        """The half-open range of positions a rank holds; may be empty."""
        start = min(rank * self.rows_per_rank, self.num_rows)
        return range(start, min(start + self.rows_per_rank, self.num_rows))


def _coprime_near(total: int, wanted: int) -> int:
    """The smallest number from ``wanted`` on that shares no divisor with ``total``."""
    factor = max(wanted, 1)
    while math.gcd(factor, total) != 1:
        factor += 1
    return factor


@dataclass(frozen=True)
class Route:
    """The way of one batch's distinct rows to their owners and back.

    ``order`` sorts the batch's rows by owner. ``local_rows`` are the rows of this rank that anyone
    asked for, in rank order; ``distinct_rows`` are those without repeats, ``inverse`` maps the former to the latter.
    With one rank only ``local_rows`` is used.
    """

    local_rows: Tensor
    order: Tensor | None = None
    send_counts: tuple[int, ...] = ()
    receive_counts: tuple[int, ...] = ()
    distinct_rows: Tensor | None = None
    inverse: Tensor | None = None


class RoutePlan(NamedTuple):
    """What a rank knows of a route without the others: plain arrays, made ahead of the step.

    ``positions`` int64 [r] are in the order of the ids with one rank, else by owner, which ``order`` int64 [r] does;
    ``send_counts`` int64 [world_size] is how many of them each rank owns.
    """

    positions: NDArray[np.int64]
    order: NDArray[np.int64] | None = None
    send_counts: NDArray[np.int64] | None = None


def plan_route(layout: RowLayout, ids: NDArray[np.int64]) -> RoutePlan:
    """The plan of distinct ``ids`` (int64 [r])."""
    positions = layout.positions(ids)
    if layout.world_size == 1:
        return RoutePlan(positions)
    owners = positions // layout.rows_per_rank
    # Ranks in 16 bits: numpy then sorts by radix, ten times as fast.
    order = np.argsort(owners.astype(np.uint16 if layout.world_size < 1 << 16 else np.int64), kind="stable")
    return RoutePlan(positions[order], order, np.bincount(owners, minlength=layout.world_size))


def find_route(layout: RowLayout, plan: RoutePlan, ranks: Ranks) -> Route:
    """The route of a plan; collective: every rank calls it for every batch. With one rank, one copy to the device."""
    device = ranks.device
    if plan.order is None or plan.send_counts is None:
        return Route(torch.from_numpy(plan.positions).to(device, non_blocking=True))
    ones, send_counts = [1] * layout.world_size, plan.send_counts.tolist()
    receive_counts = ranks.exchange(torch.from_numpy(plan.send_counts), ones, ones).tolist()
    asked = ranks.exchange(torch.from_numpy(plan.positions), send_counts, receive_counts)
    local_rows = asked - layout.range_of(ranks.rank).start
    distinct_rows, inverse = torch.unique(local_rows, return_inverse=True)
    return Route(
        local_rows.to(device),
        torch.from_numpy(plan.order).to(device, non_blocking=True),
        tuple(send_counts),
        tuple(receive_counts),
        distinct_rows.to(device),
        inverse.to(device),
    )


def look_up(local: Tensor, route: Route, ranks: Ranks) -> Tensor:
    """The rows of a route's ids, in the order of the ids, of any tensor [local, ...] in position order. Collective."""
    found = local.index_select(0, route.local_rows)
    if route.order is None:
        return found
    received = ranks.exchange(found, route.receive_counts, route.send_counts)
    return torch.empty_like(received).index_copy_(0, route.order, received)


class ShardedEmbedding:
    """One rank's rows of a table: ``weight`` float32 [local, dim] and ``squares`` float32 [local], in position order.

    ``squares`` is the row-wise optimizer's state; it lives beside the rows so that both travel together. With one rank
    there are no collectives and no copies beyond those of a plain table.
    """

    def __init__(
        self,
        layout: RowLayout,
        dim: int,
        ranks: Ranks,
        initial_rows: Callable[[NDArray[np.int64]], NDArray[np.float32]] | None = None,
    ) -> None:
        """``initial_rows`` gives the rows of ids (float32 [n, dim]), whoever holds them; zeros where left out.

        On the device `meta` the rows stay without memory and without values: enough to count them.
        """
        self.layout, self.dim, self.ranks = layout, dim, ranks
        mine = layout.range_of(ranks.rank)
        self.weight = torch.empty(len(mine), dim, device=ranks.device)
        self.squares = torch.zeros(len(mine), device=ranks.device)
        if ranks.device == "meta":
            return
        if initial_rows is None:
            self.weight.zero_()
            return
        for start in range(0, len(mine), _INIT_ROWS):
            positions = np.arange(mine.start + start, min(mine.start + start + _INIT_ROWS, mine.stop))
            rows = torch.from_numpy(initial_rows(layout.ids(positions)))
            self.weight[start : start + len(rows)] = rows

    def lookup(self, route: Route) -> Tensor:
        """The rows of a route's ids, in the order of the ids: float32 [r, dim]. Collective."""
        return look_up(self.weight, route, self.ranks)

    def apply_gradient(self, route: Route, gradient: Tensor, update: RowUpdate) -> None:
        """Adds up the gradients (float32 [r, dim]) of all ranks at each row's owner, then updates. Collective.

        ``gradient`` may be overwritten.
        """
        if route.order is None or route.distinct_rows is None or route.inverse is None:
            update(self.weight, self.squares, route.local_rows, gradient)
            return
        received = self.ranks.exchange(gradient.index_select(0, route.order), route.send_counts, route.receive_counts)
        summed = torch.zeros(len(route.distinct_rows), self.dim, device=received.device)
        # What one rank sends is distinct, so each sum has one order; scatter_add_ is three times as fast as index_add_.
        parts = zip(*(t.split_with_sizes(route.receive_counts) for t in (received, route.inverse)), strict=True)
        for part, rows in parts:
            summed.scatter_add_(0, rows[:, None].expand_as(part), part)
        update(self.weight, self.squares, route.distinct_rows, summed)
