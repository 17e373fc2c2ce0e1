"""The Huffman tree of hierarchical softmax: popular items get short codes, so an average prediction is cheap.

Item v is leaf v; inner node n, 0..V-2, is row n of the output table. Going from a leaf up to the root, each edge is one
yes-or-no question to the inner node above it, and an item's probability is the product of the answers:

counts [5, 2, 1, 1]  ->  codes 0, 10, 110, 111 (up to which side is called 1)

Source: Morin & Bengio 2005; Mikolov et al. 2013, section 2.1.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray


class HuffmanTree(NamedTuple):
    """Leaves 0..V-1, then inner nodes in the order they were joined, the root last; V = items.

    ``parent`` int32 [2V - 1], the root's is -1; ``is_right`` bool [2V - 1].
    """

    parent: NDArray[np.int32]
    is_right: NDArray[np.bool_]


def build_huffman_tree(counts: NDArray[np.int64]) -> HuffmanTree:
    """The tree of items with these train counts (int64 [V], V >= 2): no tree has shorter codes on average over them.

    Of equal counts leaves are joined before inner nodes and lower ids first: the same tree everywhere, and items
    without a count do not hang in a long chain.
    """
    return HuffmanTree(*_join(counts, np.argsort(counts, kind="stable")))


@njit(cache=True, nogil=True)
def _join(counts, order):  # type: ignore[no-untyped-def]
    """Two queues: leaves by count, inner nodes as they arise, which is by count too."""
    num_leaves = len(counts)
    weights = np.empty(2 * num_leaves - 1, np.int64)
    weights[:num_leaves] = counts
    parent, is_right = np.full(len(weights), -1, np.int32), np.zeros(len(weights), np.bool_)
    next_leaf, next_inner = 0, num_leaves
    for node in range(num_leaves, len(weights)):
        weights[node] = 0
        for side in range(2):
            is_leaf = next_leaf < num_leaves and (
                next_inner == node or weights[order[next_leaf]] <= weights[next_inner]
            )
            child = order[next_leaf] if is_leaf else next_inner
            next_leaf, next_inner = (next_leaf + 1, next_inner) if is_leaf else (next_leaf, next_inner + 1)
            weights[node] += weights[child]
            parent[child], is_right[child] = node, side == 1
    return parent, is_right


@njit(cache=True, nogil=True)
def find_paths(tree, items):  # type: ignore[no-untyped-def]
    """(nodes int64 [T, L], signs float32 [T, L]) from each item's leaf to the root, L the longest path of them.

    A node's sign is +1 where the item lies on its left and -1 on its right: the answer costs -log sigmoid(sign x
    score). Shorter paths are filled with node 0 and sign 0.
    """
    num_items = (len(tree.parent) + 1) // 2
    longest = 0
    for item in items:
        longest = max(longest, path_length(tree, item))
    nodes, signs = np.zeros((len(items), longest), np.int64), np.zeros((len(items), longest), np.float32)
    for i in range(len(items)):
        child = items[i]
        for step in range(longest):
            if tree.parent[child] < 0:
                break
            signs[i, step] = np.float32(-1) if tree.is_right[child] else np.float32(1)
            child = tree.parent[child]
            nodes[i, step] = child - num_items
    return nodes, signs


@njit(cache=True, nogil=True)
def path_length(tree, item):  # type: ignore[no-untyped-def]
    """How many questions lead to an item."""
    length, node = 0, item
    while tree.parent[node] >= 0:
        node = tree.parent[node]
        length += 1
    return length
