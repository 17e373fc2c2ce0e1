# mypy: disallow-untyped-decorators=False, warn-return-any=False
"""Walks on their way, and the block of them that advances together: what the kernel's stages hand to each other."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.walks.rng import absorb, mix

NO_NODE = -1


class Walkers(NamedTuple):
    """w walks, each as far as it got: ``nodes[i, :filled[i]]``. A walk's start is its first node.

    ``previous`` is the node a walk came from, `NO_NODE` at its start and after a restart. Where that node is in another
    shard, row ``near_row`` of the carried lists (``near_indptr``, ``near``, ``near_weights``) holds its neighbours.
    """

    keys: NDArray[np.uint64]  # [w]
    nodes: NDArray[np.int32]  # [w, walk_length]
    filled: NDArray[np.int32]  # [w]
    previous: NDArray[np.int32]  # [w]
    near_row: NDArray[np.int32]  # [w], -1 without a list
    near_indptr: NDArray[np.int64]  # [lists + 1]
    near: NDArray[np.int32]  # ascending in each list
    near_weights: NDArray[np.float32]  # beside ``near`` for node2vec+, else empty


class Block(NamedTuple):
    """Walkers that advance together; all arrays have the block's length."""

    walk: NDArray[np.int64]  # row of the walkers
    filled: NDArray[np.int64]  # nodes written so far
    node: NDArray[np.int64]
    previous: NDArray[np.int64]
    return_weight: NDArray[np.float32]  # of the edge node -> previous, 0 where there is none
    key: NDArray[np.uint64]
    tries: NDArray[np.int64]  # rejections at this step
    low: NDArray[np.int64]  # where the node's row begins
    coin: NDArray[np.float64]  # whether the place drawn or its alias is meant, in [0, `COIN_SCALE`)
    proposal: NDArray[np.int64]
    proposal_edge: NDArray[np.int64]
    chance: NDArray[np.float64]  # of the proposal, uniform in [0, 1)
    is_accepted: NDArray[np.bool_]
    pending: NDArray[np.int64]  # walkers whose verdict hangs on the edge t -> x; then those that move


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


def new_walkers(keys: NDArray[np.uint64], starts: NDArray[np.int32], walk_length: int) -> Walkers:
    """Walks that stand at their starts."""
    nodes = np.empty((len(starts), walk_length), np.int32)
    nodes[:, 0] = starts
    nobody = np.full(len(starts), NO_NODE, np.int32)
    lists = np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    return Walkers(keys, nodes, np.ones(len(starts), np.int32), nobody, nobody.copy(), *(_frozen(a) for a in lists))


def _frozen(array: NDArray) -> NDArray:  # type: ignore[type-arg]
    """Read-only, as lists that came in a message are: numba compiles a kernel for each kind."""
    array.flags.writeable = False
    return array


@njit(cache=True, nogil=True)
def empty_block(size: int) -> Block:
    """Room for so many walkers."""
    return Block(
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.float32),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.float64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.float64),
        np.empty(size, np.bool_),
        np.empty(size, np.int64),
    )
