"""The Huffman tree against brute force: prefix-free, as short as can be, the same everywhere."""

import itertools

import numpy as np
import pytest

from recspark.training.huffman import build_huffman_tree, find_paths
from tests.helpers.family_oracle import find_path


def codes_of(counts: list[int]) -> list[str]:
    """Each item's code from the root down."""
    tree = build_huffman_tree(np.array(counts, np.int64))
    paths = [find_path(tree, item) for item in range(len(counts))]
    return ["".join("0" if sign > 0 else "1" for _, sign in reversed(path)) for path in paths]


def shortest_total(weights: tuple[int, ...]) -> int:
    """The least sum of weight x depth over all binary trees: whichever two are joined first, all ways are tried."""
    if len(weights) == 1:
        return 0
    totals = []
    for i, j in itertools.combinations(range(len(weights)), 2):
        rest = tuple(w for k, w in enumerate(weights) if k not in (i, j))
        totals.append(weights[i] + weights[j] + shortest_total((*rest, weights[i] + weights[j])))
    return min(totals)


@pytest.mark.parametrize("seed", range(12))
def test_no_tree_has_shorter_codes(seed):
    counts = np.random.default_rng(seed).integers(0, 12, 2 + seed % 5).tolist()
    lengths = [len(code) for code in codes_of(counts)]
    assert sum(n * length for n, length in zip(counts, lengths, strict=True)) == shortest_total(tuple(counts))


@pytest.mark.parametrize("seed", range(5))
def test_codes_are_prefix_free_and_fill_the_tree(seed):
    counts = (np.random.default_rng(seed).pareto(1.0, 200) * 20).astype(np.int64).tolist()
    codes = sorted(codes_of(counts))
    assert not any(later.startswith(code) for code, later in itertools.pairwise(codes))
    assert sum(2.0 ** -len(code) for code in codes) == 1.0  # Kraft's sum of a full tree


def test_codes_worked_by_hand():
    assert [len(code) for code in codes_of([5, 2, 1, 1])] == [1, 2, 3, 3]
    assert [len(code) for code in codes_of([1, 1])] == [1, 1]
    assert [len(code) for code in codes_of([3, 3, 3, 3])] == [2, 2, 2, 2]


def test_items_without_a_count_do_not_hang_in_a_chain():
    lengths = [len(code) for code in codes_of([100, 50, *[0] * 64])]
    assert max(lengths) == 2 + 6


def test_inner_nodes_are_rows_below_the_number_of_items_and_the_root_is_the_last():
    tree = build_huffman_tree(np.array([7, 1, 4, 4, 2]))
    assert {find_path(tree, item)[-1][0] for item in range(5)} == {3}
    assert {row for item in range(5) for row, _ in find_path(tree, item)} == {0, 1, 2, 3}


def test_paths_are_filled_up_with_no_sign():
    tree = build_huffman_tree(np.array([5, 2, 1, 1]))
    nodes, signs = find_paths(tree, np.array([2, 0, 1], np.int32))
    assert nodes.shape == signs.shape == (3, 3)
    for item, row, sign in zip((2, 0, 1), nodes.tolist(), signs.tolist(), strict=True):
        path = find_path(tree, item)
        assert [(n, s) for n, s in zip(row, sign, strict=True) if s] == path
        assert row[len(path) :] == [0] * (3 - len(path))
    assert find_paths(tree, np.empty(0, np.int32))[0].shape == (0, 0)
