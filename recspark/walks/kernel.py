# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""Second-order (node2vec) walks over a CSR graph: arrays in, arrays out, one core, exact.

A step from v, having come from t, goes to x with probability proportional to weight(v, x) * bias, where bias is
1/p for x = t, 1 for a neighbour of t (there is an edge t -> x), and 1/q for any other x. Instead of computing the
distribution at every step, propose x by v's alias table and accept it with probability bias / max(1, 1/q). Where 1/p
is larger than that maximum, the surplus of the one return edge is drawn as an area of its own ("outlier"), so small p
costs no rejections. Whether t -> x exists is asked of a Bloom filter first, then by binary search, and only when the
answer can change the verdict. After as many rejections as enumerating v's neighbours would cost, that is done instead:
still exact, and no p, q or graph can make a walk hang.

Walkers advance in blocks through the same stage together, so that their cache misses overlap. A walk depends on its
start, its key and the graph, never on the block it is in.

Source: Grover & Leskovec 2016 (node2vec), section 3.2; rejection and outlier: Yang et al. 2019 (KnightKing), section 4.
p = q = 1 is DeepWalk (Perozzi et al. 2014): each proposal is taken.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.walks.rng import absorb, draw, mix, unit
from recspark.walks.walk_graph import COIN_SCALE, Bias, WalkGraph, bloom_bit, bloom_shift, find_edge

BLOCK_SIZE = 256
_STEP_SHIFT = np.uint64(40)  # counter of a draw: step << 40 | try, twice
_MIN_TRIES = 32
_NO_NODE = -1


class _Block(NamedTuple):
    """Walkers that advance together; all arrays have the block's length."""

    walk: NDArray[np.int64]  # row of the output
    filled: NDArray[np.int64]  # nodes written so far
    node: NDArray[np.int64]
    previous: NDArray[np.int64]
    edge: NDArray[np.int64]  # the edge previous -> node
    key: NDArray[np.uint64]
    tries: NDArray[np.int64]  # rejections at this step
    proposal: NDArray[np.int64]
    proposal_edge: NDArray[np.int64]
    chance: NDArray[np.float64]  # of the proposal, uniform in [0, 1)
    is_accepted: NDArray[np.bool_]
    pending: NDArray[np.int64]  # walkers whose verdict hangs on whether t -> x exists


@njit(cache=True, nogil=True)
def walk_keys(
    seed: int, epochs: NDArray[np.int32], starts: NDArray[np.int32], numbers: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """The key of each walk: a function of (seed, epoch, start node, walk number) and of nothing else."""
    keys = np.empty(len(starts), np.uint64)
    root = mix(np.uint64(seed))
    for i in range(len(starts)):
        keys[i] = absorb(absorb(absorb(root, epochs[i]), starts[i]), numbers[i])
    return keys


@njit(cache=True, nogil=True)
def walk(
    graph: WalkGraph,
    bias: Bias,
    starts: NDArray[np.int32],
    keys: NDArray[np.uint64],
    nodes: NDArray[np.int32],
    lengths: NDArray[np.int32],
    block_size: int,
) -> None:
    """Fills row i of ``nodes`` [len(starts), walk_length] with the walk of (starts[i], keys[i]).

    ``lengths`` [len(starts)] gets the number of nodes: less than walk_length where a walk met a node without edges.
    Cells behind a walk's end are left as they were.
    """
    block = _empty_block(min(block_size, len(starts)))
    waiting, active = 0, 0
    while True:
        while active < len(block.node) and waiting < len(starts):
            _enter(block, active, waiting, starts, keys, nodes)
            waiting += 1
            active += 1
        active = _retire(graph.indptr, block, active, nodes.shape[1], lengths)
        if active == 0 and waiting == len(starts):
            return
        _propose(graph, bias, block, active)
        if bias.is_second_order:
            num_pending = _judge(graph, bias, block, active)
            num_pending = _ask_bloom(graph, bias, block, num_pending)
            _ask_rows(graph, bias, block, num_pending)
            _enumerate_the_stuck(graph, bias, block, active)
        _advance(block, active, nodes)


@njit(cache=True, nogil=True)
def _empty_block(size: int) -> _Block:
    return _Block(
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.float64),
        np.empty(size, np.bool_),
        np.empty(size, np.int64),
    )


@njit(cache=True, nogil=True)
def _enter(
    block: _Block, i: int, row: int, starts: NDArray[np.int32], keys: NDArray[np.uint64], nodes: NDArray[np.int32]
) -> None:
    """Puts walk ``row`` at place i of the block."""
    block.walk[i] = row
    block.filled[i] = 1
    block.node[i] = starts[row]
    block.previous[i] = _NO_NODE
    block.edge[i] = 0
    block.key[i] = keys[row]
    block.tries[i] = 0
    nodes[row, 0] = starts[row]


@njit(cache=True, nogil=True)
def _retire(indptr: NDArray[np.int64], block: _Block, active: int, walk_length: int, lengths: NDArray[np.int32]) -> int:
    """Takes out walks that are full or at a dead end, moving the last walker into the gap; how many are left."""
    i = 0
    while i < active:
        v = block.node[i]
        if block.filled[i] < walk_length and indptr[v + 1] > indptr[v]:
            i += 1
            continue
        lengths[block.walk[i]] = block.filled[i]
        active -= 1
        block.walk[i] = block.walk[active]
        block.filled[i] = block.filled[active]
        block.node[i] = block.node[active]
        block.previous[i] = block.previous[active]
        block.edge[i] = block.edge[active]
        block.key[i] = block.key[active]
        block.tries[i] = block.tries[active]
    return active


@njit(cache=True, nogil=True)
def _propose(graph: WalkGraph, bias: Bias, block: _Block, active: int) -> None:
    """Draws a neighbour of each walker's node in proportion to the weights, and the chance it is judged by."""
    is_weighted = len(graph.records) > 0
    for i in range(active):
        v = block.node[i]
        first = graph.indptr[v]
        counter = ((np.uint64(block.filled[i]) << _STEP_SHIFT) | np.uint64(block.tries[i])) << np.uint64(1)
        position = unit(draw(block.key[i], counter)) * np.float64(graph.indptr[v + 1] - first)
        column = int(position)
        edge = first + column
        if not is_weighted:
            block.proposal_edge[i] = edge
            block.proposal[i] = graph.indices[edge]
        elif (position - column) * COIN_SCALE < graph.records[edge, 0]:
            block.proposal_edge[i] = edge
            block.proposal[i] = graph.records[edge, 2]
        else:
            block.proposal_edge[i] = first + graph.records[edge, 1]
            block.proposal[i] = graph.records[edge, 3]
        block.is_accepted[i] = True
        if bias.is_second_order:
            block.chance[i] = unit(draw(block.key[i], counter | np.uint64(1)))


@njit(cache=True, nogil=True)
def _judge(graph: WalkGraph, bias: Bias, block: _Block, active: int) -> int:
    """Decides what needs no look at t's neighbours; the number of walkers left ``pending``."""
    num_pending = 0
    for i in range(active):
        t, chance = block.previous[i], block.chance[i]
        if t == _NO_NODE:
            continue
        if bias.has_outlier:
            return_weight = graph.return_weights[block.edge[i]]
            if return_weight > 0.0:
                surplus = (bias.inverse_p - bias.ceiling) * return_weight
                share = 1.0 / (1.0 + graph.weight_sums[block.node[i]] * bias.ceiling / surplus)
                if chance < share:
                    block.proposal[i] = t
                    block.proposal_edge[i] = find_edge(graph.indptr, graph.indices, block.node[i], t)
                    continue
                chance = (chance - share) / (1.0 - share)  # uniform again
        if block.proposal[i] == t:
            block.is_accepted[i] = chance * bias.ceiling < bias.inverse_p
        elif chance >= bias.floor:
            block.pending[num_pending] = i
            num_pending += 1
    return num_pending


@njit(cache=True, nogil=True)
def _ask_bloom(graph: WalkGraph, bias: Bias, block: _Block, num_pending: int) -> int:
    """Decides for those whose edge t -> x is surely not there; the number of walkers still pending."""
    left = 0
    shift = bloom_shift(graph.bloom)
    for j in range(num_pending):
        i = block.pending[j]
        bit = bloom_bit(block.previous[i], block.proposal[i], shift)
        maybe = (graph.bloom[bit >> np.uint64(6)] >> (bit & np.uint64(63))) & np.uint64(1)
        block.is_accepted[i] = not bias.near_wins
        block.pending[left] = i
        left += int(maybe)
    return left


@njit(cache=True, nogil=True)
def _ask_rows(graph: WalkGraph, bias: Bias, block: _Block, num_pending: int) -> None:
    """Decides for the rest by binary search in t's row."""
    for j in range(num_pending):
        i = block.pending[j]
        is_near = find_edge(graph.indptr, graph.indices, block.previous[i], block.proposal[i]) >= 0
        block.is_accepted[i] = is_near == bias.near_wins


@njit(cache=True, nogil=True)
def _enumerate_the_stuck(graph: WalkGraph, bias: Bias, block: _Block, active: int) -> None:
    """Draws from the enumerated distribution where rejections have cost as much already.

    Tries are independent, so whatever was rejected before, the step stays exact.
    """
    for i in range(active):
        v = block.node[i]
        if block.is_accepted[i] or block.tries[i] < max(_MIN_TRIES, graph.indptr[v + 1] - graph.indptr[v]):
            continue
        counter = ((np.uint64(block.filled[i]) << _STEP_SHIFT) | np.uint64(block.tries[i] + 1)) << np.uint64(1)
        edge = _draw_enumerated(graph, bias, block.previous[i], v, unit(draw(block.key[i], counter)))
        block.proposal_edge[i] = edge
        block.proposal[i] = graph.indices[edge]
        block.is_accepted[i] = True


@njit(cache=True, nogil=True)
def _draw_enumerated(graph: WalkGraph, bias: Bias, t: int, v: int, chance: float) -> int:
    """An edge of v drawn by inverting the cumulative distribution of a step that came from t."""
    total = 0.0
    for edge in range(graph.indptr[v], graph.indptr[v + 1]):
        total += _biased_weight(graph, bias, t, edge)
    target, reached = chance * total, 0.0
    for edge in range(graph.indptr[v], graph.indptr[v + 1]):
        reached += _biased_weight(graph, bias, t, edge)
        if target < reached:
            return edge
    return graph.indptr[v + 1] - 1


@njit(cache=True, nogil=True)
def _biased_weight(graph: WalkGraph, bias: Bias, t: int, edge: int) -> float:
    """weight(v, x) times node2vec's bias: equation 2 of the paper, unnormalised."""
    x = int(graph.indices[edge])
    if x == t:
        return np.float64(graph.weights[edge]) * bias.inverse_p
    is_near = find_edge(graph.indptr, graph.indices, t, x) >= 0
    return np.float64(graph.weights[edge]) * (1.0 if is_near else bias.inverse_q)


@njit(cache=True, nogil=True)
def _advance(block: _Block, active: int, nodes: NDArray[np.int32]) -> None:
    """Moves the accepted, counts a try for the others."""
    for i in range(active):
        if not block.is_accepted[i]:
            block.tries[i] += 1
            continue
        block.previous[i] = block.node[i]
        block.node[i] = block.proposal[i]
        block.edge[i] = block.proposal_edge[i]
        block.tries[i] = 0
        nodes[block.walk[i], block.filled[i]] = block.proposal[i]
        block.filled[i] += 1
