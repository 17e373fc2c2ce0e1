# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""Whether a proposed step is taken: node2vec's and node2vec+'s biases by rejection, exact.

A walker that came from t to v is offered x. Its bias is 1/p for x = t and else lies between 1/q and 1, so the proposal
is accepted with chance bias / max(1, 1/q): at once where the chance drawn is below the least of them, else after a look
for the edge t -> x, in a Bloom filter first, then by binary search in t's row. Where t is in another shard, its row
came along with the walker.

    node2vec    bias is 1 where there is an edge t -> x, else 1/q
    node2vec+   1 where that edge is tight: at least x's threshold (mean weight + gamma x deviation, `walk_graph`);
                else min(1, 1/q) where v -> x is below v's threshold;
                else 1/q + (1 - 1/q) weight(t, x) / threshold(x), with weight 0 where there is no edge

Source: Grover & Leskovec 2016, section 3.2.2; rejection and outlier: Yang et al. 2019 (KnightKing), section 4;
node2vec+: Liu, Hirn & Krishnan 2023, section 2.2. In directed graphs its weight(x, t) is that of t -> x here, as in
its authors' own program.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.walks.bias import Bias
from recspark.walks.rng import draw, unit
from recspark.walks.walk_graph import WalkGraph, bloom_bit, bloom_shift, find_edge
from recspark.walks.walkers import NO_NODE, Block, Walkers

_STEP_SHIFT = np.uint64(40)  # counter of a draw: step << 40 | try, twice
MIN_TRIES = 32


@njit(cache=True, nogil=True)
def step_counter(filled: int, tries: int) -> np.uint64:
    """The counter of a try's first draw, the second has the one after it."""
    return ((np.uint64(filled) << _STEP_SHIFT) | np.uint64(tries)) << np.uint64(1)


@njit(cache=True, nogil=True)
def judge(
    graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, block: Block, active: int, max_tries: int
) -> None:
    """Accepts or rejects each walker's proposal; ``first`` is the node of the graph's first row.

    Stages get the arrays they need: each array in an argument costs a count of its references.
    """
    num_pending = _judge_at_once(graph, bias, first, block, active)
    if bias.is_plus:
        _weigh(graph, bias, first, walkers, block, num_pending)
    else:
        if len(walkers.near) > 0:
            num_pending = _ask_lists(graph, bias, first, walkers, block, num_pending)
        num_pending = _ask_bloom(graph.bloom, bias.near_wins, block, num_pending)
        _ask_rows(graph.indptr, graph.indices, bias.near_wins, first, block, num_pending)
    if max_tries >= MIN_TRIES:
        _enumerate_the_stuck(graph, bias, first, walkers, block, active)


@njit(cache=True, nogil=True)
def _judge_at_once(graph: WalkGraph, bias: Bias, first: int, block: Block, active: int) -> int:
    """Decides what needs no look at t's neighbours; the number of walkers left ``pending``."""
    num_pending = 0
    for i in range(active):
        t, chance = block.previous[i], block.chance[i]
        if t == NO_NODE:
            continue
        if bias.has_outlier and block.return_weight[i] > 0.0:
            surplus = (bias.inverse_p - bias.ceiling) * block.return_weight[i]
            share = 1.0 / (1.0 + graph.weight_sums[block.node[i] - first] * bias.ceiling / surplus)
            if chance < share:
                block.proposal[i] = t
                block.proposal_edge[i] = find_edge(graph.indptr, graph.indices, block.node[i] - first, t)
                continue
            chance = (chance - share) / (1.0 - share)  # uniform again
        if block.proposal[i] == t:
            block.is_accepted[i] = chance * bias.ceiling < bias.inverse_p
            continue
        block.chance[i] = chance
        block.pending[num_pending] = i
        num_pending += int(chance >= bias.floor)  # no branch: nobody could guess which
    return num_pending


@njit(cache=True, nogil=True)
def _ask_lists(graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, block: Block, num_pending: int) -> int:
    """Decides for those whose t is in another shard, by the row that came along; how many are still pending."""
    left, num_rows = 0, np.uint64(len(graph.indptr) - 1)
    for j in range(num_pending):
        i = block.pending[j]
        if np.uint64(block.previous[i] - first) < num_rows:
            block.pending[left] = i
            left += 1
            continue
        row = walkers.near_row[block.walk[i]]
        is_near = find_edge(walkers.near_indptr, walkers.near, row, block.proposal[i]) >= 0
        block.is_accepted[i] = is_near == bias.near_wins
    return left


@njit(cache=True, nogil=True)
def _ask_bloom(bloom: NDArray[np.uint64], near_wins: bool, block: Block, num_pending: int) -> int:
    """Decides for those whose edge t -> x is surely not there; the number of walkers still pending."""
    left = 0
    shift = bloom_shift(bloom)
    for j in range(num_pending):
        i = block.pending[j]
        maybe = _may_have_edge(bloom, block.previous[i], block.proposal[i], shift)
        block.is_accepted[i] = not near_wins
        block.pending[left] = i
        left += int(maybe)
    return left


@njit(cache=True, nogil=True)
def _may_have_edge(bloom: NDArray[np.uint64], t: int, x: int, shift: np.uint64) -> bool:
    """False where there is surely no edge t -> x; asked of a node t of the graph's own rows."""
    bit = bloom_bit(t, x, shift)
    return (bloom[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1) != np.uint64(0)


@njit(cache=True, nogil=True)
def _ask_rows(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], near_wins: bool, first: int, block: Block, num_pending: int
) -> None:
    """Decides for the rest by binary search in t's row."""
    for j in range(num_pending):
        i = block.pending[j]
        is_near = find_edge(indptr, indices, block.previous[i] - first, block.proposal[i]) >= 0
        block.is_accepted[i] = is_near == near_wins


@njit(cache=True, nogil=True)
def _weigh(graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, block: Block, num_pending: int) -> None:
    """node2vec+'s verdict on those left, by the weights of t -> x and v -> x."""
    num_rows, shift = np.uint64(len(graph.indptr) - 1), bloom_shift(graph.bloom)
    for j in range(num_pending):
        i = block.pending[j]
        t, x, weight = block.previous[i], block.proposal[i], -1.0
        if np.uint64(t - first) >= num_rows or _may_have_edge(graph.bloom, t, x, shift):
            weight = _weight_from(graph, first, walkers, block.walk[i], t, x)
        found = _plus_bias(graph, bias, block.node[i], block.proposal_edge[i], x, weight)
        block.is_accepted[i] = block.chance[i] * bias.ceiling < found


@njit(cache=True, nogil=True)
def _weight_from(graph: WalkGraph, first: int, walkers: Walkers, walk: int, t: int, x: int) -> float:
    """The weight of the edge t -> x, below 0 where there is none; 1 stands for it in lists without weights."""
    if 0 <= t - first < len(graph.indptr) - 1:
        edge = find_edge(graph.indptr, graph.indices, t - first, x)
        return np.float64(graph.weights[edge]) if edge >= 0 else -1.0
    place = find_edge(walkers.near_indptr, walkers.near, walkers.near_row[walk], x)
    if place >= 0 and len(walkers.near_weights) > 0:
        return np.float64(walkers.near_weights[place])
    return 1.0 if place >= 0 else -1.0


@njit(cache=True, nogil=True)
def _plus_bias(graph: WalkGraph, bias: Bias, v: int, edge: int, x: int, weight: float) -> float:
    """node2vec+'s bias of the step along ``edge`` from v to x, given the weight of t -> x, below 0 without one."""
    threshold = np.float64(graph.thresholds[x])
    if weight >= threshold:
        return 1.0
    if graph.weights[edge] < graph.thresholds[v]:
        return min(1.0, bias.inverse_q)
    near = max(weight, 0.0) / threshold if threshold > 0.0 else 0.0  # a node that nobody leaves has no threshold
    return bias.inverse_q + (1.0 - bias.inverse_q) * near


@njit(cache=True, nogil=True)
def _enumerate_the_stuck(graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, block: Block, active: int) -> None:
    """Draws from the enumerated distribution where rejections have cost as much already.

    Tries are independent, so whatever was rejected before, the step stays exact.
    """
    for i in range(active):
        row = block.node[i] - first
        if block.is_accepted[i] or block.tries[i] < max(MIN_TRIES, graph.indptr[row + 1] - graph.indptr[row]):
            continue
        chance = unit(draw(block.key[i], step_counter(block.filled[i], block.tries[i] + 1)))
        edge = _draw_enumerated(graph, bias, first, walkers, block.walk[i], block.previous[i], block.node[i], chance)
        block.proposal_edge[i] = edge
        block.proposal[i] = graph.indices[edge]
        block.is_accepted[i] = True


@njit(cache=True, nogil=True)
def _draw_enumerated(
    graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, walk: int, t: int, v: int, chance: float
) -> int:
    """An edge of v drawn by inverting the cumulative distribution of a step that came from t."""
    low, stop = graph.indptr[v - first], graph.indptr[v - first + 1]
    masses = np.empty(stop - low, np.float64)
    total = 0.0
    for edge in range(low, stop):
        masses[edge - low] = _biased_weight(graph, bias, first, walkers, walk, t, v, edge)
        total += masses[edge - low]
    return low + _invert(masses, chance * total)


@njit(cache=True, nogil=True)
def _invert(masses: NDArray[np.float64], target: float) -> int:
    """The first place at which the sum of masses exceeds ``target``."""
    reached = 0.0
    for place in range(len(masses)):
        reached += masses[place]
        if target < reached:
            return place
    return len(masses) - 1


@njit(cache=True, nogil=True)
def _biased_weight(
    graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, walk: int, t: int, v: int, edge: int
) -> float:
    """weight(v, x) times its bias: equation 2 of node2vec, unnormalised."""
    x, weight = int(graph.indices[edge]), np.float64(graph.weights[edge])
    if x == t:
        return weight * bias.inverse_p
    if bias.is_plus:
        from_t = _weight_from(graph, first, walkers, walk, t, x)
        return weight * _plus_bias(graph, bias, v, edge, x, from_t)
    return weight * (1.0 if _weight_from(graph, first, walkers, walk, t, x) >= 0.0 else bias.inverse_q)
