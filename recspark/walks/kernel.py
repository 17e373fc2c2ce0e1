# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""Second-order (node2vec, node2vec+) walks over a CSR graph or a range of its nodes: arrays in, arrays out, one core.

A step from v, having come from t, goes to x with probability proportional to weight(v, x) * bias, where bias is
1/p for x = t, 1 for a neighbour of t (there is an edge t -> x), and 1/q for any other x; node2vec+ also looks at how
heavy the edges are. Instead of computing the distribution at every step, propose x by v's alias table and accept it
with probability bias / max(1, 1/q) (`acceptance`). Where 1/p is larger than that maximum, the surplus of the one return
edge is drawn as an area of its own ("outlier"), so small p costs no rejections. After as many rejections as enumerating
v's neighbours would cost, that is done instead: still exact, and no p, q or graph can make a walk hang.

Walkers advance in blocks through the same stage together, so that their cache misses overlap. A walk depends on its
start, its key and the graph, never on the block it is in, nor on how the graph is cut into shards.

Source: Grover & Leskovec 2016 (node2vec), section 3.2; rejection and outlier: Yang et al. 2019 (KnightKing), section 4.
p = q = 1 is DeepWalk (Perozzi et al. 2014): each proposal is taken. Random walk with restart: Tong et al. 2006.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.walks.acceptance import judge, step_counter
from recspark.walks.bias import Bias
from recspark.walks.rng import draw, unit
from recspark.walks.walk_graph import COIN_SCALE, WalkGraph, find_edge
from recspark.walks.walkers import NO_NODE, Block, Walkers, empty_block, new_walkers

BLOCK_SIZE = 256
_RESTART = np.uint64(0xA0761D6478BD642F)  # a stream of its own: walks without restarts are what they were


def walk(
    graph: WalkGraph,
    bias: Bias,
    starts: NDArray[np.int32],
    keys: NDArray[np.uint64],
    walk_length: int,
    block_size: int = BLOCK_SIZE,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(nodes [len(starts), walk_length], lengths [len(starts)]): row i is the walk of (starts[i], keys[i]).

    A length is less than walk_length where a walk met a node without edges; cells behind its end mean nothing.
    """
    walkers = new_walkers(keys, starts, walk_length)
    advance(graph, bias, 0, walkers, block_size)
    return walkers.nodes, walkers.filled


@njit(cache=True, nogil=True)
def advance(graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, block_size: int) -> None:
    """Walks on, in place, until each walk is full, at a dead end or at a node that is not among the graph's rows.

    The rows are those of the nodes ``first``, ``first`` + 1, ...; every walk stands at one of them when it comes in.
    """
    walk_length, num_walks = walkers.nodes.shape[1], len(walkers.filled)
    block = empty_block(min(block_size, num_walks))
    waiting, active, max_tries = 0, 0, 0
    while True:
        if active < len(block.node) and waiting < num_walks:
            entered = min(len(block.node) - active, num_walks - waiting)
            _enter(graph, bias, first, walkers, block, active, waiting, entered)
            waiting += entered
            active += entered
        if bias.restart > 0.0:
            _restart(bias, walkers, block, active)
        active = _retire(graph.indptr, first, walkers, block, active, walk_length)
        if active == 0 and waiting == num_walks:
            return
        _propose(graph, bias, first, block, active)
        if bias.is_second_order:
            judge(graph, bias, first, walkers, block, active, max_tries)
        max_tries = _move(graph.return_weights, walkers.nodes, block, active)


@njit(cache=True, nogil=True)
def _enter(
    graph: WalkGraph, bias: Bias, first: int, walkers: Walkers, block: Block, active: int, waiting: int, entered: int
) -> None:
    """Puts so many walks that have been waiting at the end of the block."""
    for i in range(active, active + entered):
        walk = waiting + i - active
        v, t = walkers.nodes[walk, walkers.filled[walk] - 1], walkers.previous[walk]
        block.walk[i] = walk
        block.filled[i] = walkers.filled[walk]
        block.node[i] = v
        block.previous[i] = t
        block.return_weight[i] = 0.0
        block.key[i] = walkers.keys[walk]
        block.tries[i] = 0
        if bias.has_outlier and t != NO_NODE:
            back = find_edge(graph.indptr, graph.indices, v - first, t)
            if back >= 0:
                block.return_weight[i] = graph.weights[back]


@njit(cache=True, nogil=True)
def _restart(bias: Bias, walkers: Walkers, block: Block, active: int) -> None:
    """Puts those back to their start whose step is a restart; their next one is of first order again."""
    walk_length = walkers.nodes.shape[1]
    for i in range(active):
        if block.tries[i] > 0:
            continue
        walk, key = block.walk[i], block.key[i] ^ _RESTART
        while block.filled[i] < walk_length and unit(draw(key, np.uint64(block.filled[i]))) < bias.restart:
            block.node[i] = walkers.nodes[walk, 0]
            block.previous[i] = NO_NODE
            walkers.nodes[walk, block.filled[i]] = walkers.nodes[walk, 0]
            block.filled[i] += 1


@njit(cache=True, nogil=True)
def _retire(
    indptr: NDArray[np.int64], first: int, walkers: Walkers, block: Block, active: int, walk_length: int
) -> int:
    """Takes out walks that are full, at a dead end or outside, the last walker fills the gap; how many are left."""
    i, num_rows = 0, len(indptr) - 1
    while i < active:
        row = block.node[i] - first
        if block.filled[i] < walk_length and 0 <= row < num_rows and indptr[row + 1] > indptr[row]:
            i += 1
            continue
        walkers.filled[block.walk[i]] = block.filled[i]
        walkers.previous[block.walk[i]] = block.previous[i]
        active -= 1
        block.walk[i] = block.walk[active]
        block.filled[i] = block.filled[active]
        block.node[i] = block.node[active]
        block.previous[i] = block.previous[active]
        block.return_weight[i] = block.return_weight[active]
        block.key[i] = block.key[active]
        block.tries[i] = block.tries[active]
    return active


@njit(cache=True, nogil=True)
def _propose(graph: WalkGraph, bias: Bias, first: int, block: Block, active: int) -> None:
    """Draws a neighbour of each walker's node in proportion to the weights, and the chance it is judged by.

    Places are drawn before records are read, and records without a branch on what they hold: many misses are under way
    at once, none waits for a guess about another.
    """
    _draw_places(graph.indptr, bias.is_second_order, first, block, active)
    if len(graph.records) > 0:
        _read_records(graph.records, block, active)
    else:
        for i in range(active):
            block.proposal[i] = graph.indices[block.proposal_edge[i]]


@njit(cache=True, nogil=True)
def _draw_places(indptr: NDArray[np.int64], with_chance: bool, first: int, block: Block, active: int) -> None:
    """A place of each walker's row, uniformly, and a coin that says whether it or its alias is meant."""
    for i in range(active):
        row = block.node[i] - first
        low = indptr[row]
        counter = step_counter(block.filled[i], block.tries[i])
        position = unit(draw(block.key[i], counter)) * np.float64(indptr[row + 1] - low)
        column = int(position)
        block.low[i] = low
        block.coin[i] = (position - column) * COIN_SCALE
        block.proposal_edge[i] = low + column
        block.is_accepted[i] = True
        if with_chance:
            block.chance[i] = unit(draw(block.key[i], counter | np.uint64(1)))


@njit(cache=True, nogil=True)
def _read_records(records: NDArray[np.int32], block: Block, active: int) -> None:
    """Each walker's proposal: the neighbour at its place, or the alias of that."""
    for i in range(active):
        edge = block.proposal_edge[i]
        own, other = np.int64(records[edge, 2]), np.int64(records[edge, 3])
        other_edge = block.low[i] + np.int64(records[edge, 1])
        is_own = block.coin[i] < records[edge, 0]
        block.proposal[i] = own if is_own else other
        block.proposal_edge[i] = edge if is_own else other_edge


@njit(cache=True, nogil=True)
def _move(return_weights: NDArray[np.float32], nodes: NDArray[np.int32], block: Block, active: int) -> int:
    """Moves the accepted, counts a try for the others; the most tries of any.

    Without a branch: half of the proposals may be refused, in no order. A cell behind a walk's end means nothing.
    """
    max_tries, num_moved = 0, 0
    for i in range(active):
        is_accepted, x = block.is_accepted[i], block.proposal[i]
        nodes[block.walk[i], block.filled[i]] = x
        block.previous[i] = block.node[i] if is_accepted else block.previous[i]
        block.node[i] = x if is_accepted else block.node[i]
        block.tries[i] = 0 if is_accepted else block.tries[i] + 1
        block.filled[i] += int(is_accepted)
        max_tries = max(max_tries, block.tries[i])
        block.pending[num_moved] = i
        num_moved += int(is_accepted)
    if len(return_weights) > 0:
        for j in range(num_moved):
            i = block.pending[j]
            block.return_weight[i] = return_weights[block.proposal_edge[i]]
    return max_tries
