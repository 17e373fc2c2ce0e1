"""The walk kernel against enumerated probabilities: chi-square over every (previous, current) pair of small graphs."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recspark.walks.bias import make_bias
from recspark.walks.kernel import walk
from recspark.walks.walk_graph import build_walk_graph, walk_graph_bytes
from recspark.walks.walkers import walk_keys
from tests.helpers.walk_oracle import GRAPHS, NUM_STEPS, chi_square_pvalue, csr, run

SETTINGS = [(0.5, 2.0), (2.0, 0.5), (0.05, 0.5), (0.02, 3.0), (4.0, 4.0), (0.25, 0.25), (1.0, 3.0), (1.0, 1.0)]


@pytest.mark.parametrize(("p", "q"), SETTINGS)
@pytest.mark.parametrize("name", GRAPHS)
def test_second_order_transitions_match_enumeration(name, p, q):
    num_nodes, edges = GRAPHS[name]
    nodes, lengths = run(num_nodes, edges, p, q, NUM_STEPS // 100, 102)
    assert (lengths == 102).all()
    assert chi_square_pvalue(nodes, edges, p, q, num_nodes) > 1e-4


@pytest.mark.parametrize(("p", "q"), [(0.5, 2.0), (3.0, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("name", ["random", "directed"])
def test_unweighted_walks_match_enumeration(name, p, q):
    num_nodes, edges = GRAPHS[name]
    nodes, _ = run(num_nodes, edges, p, q, NUM_STEPS // 100, 102, weighted=False)
    assert chi_square_pvalue(nodes, dict.fromkeys(edges, 1.0), p, q, num_nodes) > 1e-4


def test_the_oracle_notices_a_wrong_p():
    num_nodes, edges = GRAPHS["random"]
    nodes, _ = run(num_nodes, edges, 0.5, 2.0, NUM_STEPS // 100, 102)
    assert chi_square_pvalue(nodes, edges, 0.52, 2.0, num_nodes) < 1e-6


def test_golden_graph_worked_by_hand():
    # At 1, from 0, with p = 1/2, q = 2: back to 0: 1 * 2; to 2, a neighbour of 0: 2 * 1; to 3: 4 * 1/2. A third each.
    nodes, _ = run(*GRAPHS["golden"], 0.5, 2.0, NUM_STEPS, 3, starts=np.zeros(NUM_STEPS))
    assert (nodes[:, 0] == 0).all()
    # The first step is by weight alone: 1 : 1.
    assert stats.binomtest(int((nodes[:, 1] == 1).sum()), NUM_STEPS, 0.5).pvalue > 1e-4
    third = np.bincount(nodes[nodes[:, 1] == 1, 2], minlength=5)
    assert stats.chisquare(third[[0, 2, 3]]).pvalue > 1e-4
    # At 2, from 0: back to 0: 1 * 2; to 1, a neighbour of 0: 2 * 1. Half each.
    other = np.bincount(nodes[nodes[:, 1] == 2, 2], minlength=5)
    assert other[:2].sum() == other.sum()
    assert stats.chisquare(other[:2]).pvalue > 1e-4


def test_first_steps_follow_the_weights():
    nodes, _ = run(*GRAPHS["star"], 0.5, 2.0, NUM_STEPS, 2, starts=np.zeros(NUM_STEPS))
    expected = NUM_STEPS * np.arange(1, 6) / 15
    assert stats.chisquare(np.bincount(nodes[:, 1], minlength=6)[1:], expected).pvalue > 1e-4


def test_a_missing_return_edge_is_never_taken():
    # 0 -> 1 -> {2, 3} -> 0: from 0 at 1 there is no way back, however small p is.
    edges = {(0, 1): 1.0, (1, 2): 1.0, (1, 3): 3.0, (2, 0): 1.0, (3, 0): 1.0}
    nodes, _ = run(4, edges, 0.001, 1.0, 10_000, 102)
    assert chi_square_pvalue(nodes, edges, 0.001, 1.0, 4) > 1e-4


@pytest.mark.parametrize(("p", "q"), [(1e9, 1e9), (0.5, 1e3), (1e9, 1e-9), (1e-9, 1e-9), (1e4, 1e4), (1e4, 1e-4)])
@pytest.mark.parametrize("name", ["golden", "star", "clique_and_tail", "directed"])
def test_extreme_settings_neither_hang_nor_bend_the_distribution(name, p, q):
    num_nodes, edges = GRAPHS[name]
    nodes, lengths = run(num_nodes, edges, p, q, 2_000, 52)
    assert (lengths == 52).all()
    assert chi_square_pvalue(nodes, edges, p, q, num_nodes) > 1e-4


@pytest.mark.parametrize(("p", "q"), [(0.5, 2.0), (1.0, 1.0), (1e4, 1e4)])
def test_the_same_walks_for_every_block_size(p, q):
    num_nodes, edges = GRAPHS["random"]
    reference, _ = run(num_nodes, edges, p, q, 2_000, 30, block_size=1)
    for block_size in (2, 64, 256, 5_000):
        found, _ = run(num_nodes, edges, p, q, 2_000, 30, block_size=block_size)
        np.testing.assert_array_equal(found, reference)


def test_a_walk_depends_on_seed_epoch_start_and_number_only():
    starts, numbers = np.array([3, 4, 3, 4], np.int32), np.array([0, 0, 1, 1], np.int32)
    zero = np.zeros(4, np.int32)
    keys = walk_keys(1, zero, starts, numbers)
    assert len({*keys.tolist(), *walk_keys(2, zero, starts, numbers).tolist()}) == 8
    assert len({*keys.tolist(), *walk_keys(1, zero + 1, starts, numbers).tolist()}) == 8
    order = [2, 0, 3, 1]
    np.testing.assert_array_equal(walk_keys(1, zero, starts[order], numbers[order]), keys[order])


def test_pinned_walks():
    # A change of these is a change of every table of walks: raise the format version of `walks` with it.
    nodes, _ = run(*GRAPHS["golden"], 0.5, 2.0, 5, 8)
    assert nodes.tolist() == [
        [0, 1, 3, 1, 3, 1, 3, 1],
        [1, 2, 1, 2, 1, 3, 1, 2],
        [2, 1, 3, 1, 3, 1, 3, 1],
        [3, 1, 3, 1, 3, 1, 3, 1],
        [4, 3, 4, 3, 1, 3, 1, 3],
    ]


def test_deepwalk_is_the_general_path_at_one():
    # With p = q = 1 the first proposal is always accepted, so the path without rejection takes the very same steps.
    num_nodes, edges = GRAPHS["random"]
    special = make_bias(1.0, 1.0)
    general = special._replace(is_second_order=True)
    starts = np.arange(1200, dtype=np.int32) % num_nodes
    keys = walk_keys(1, np.zeros(1200, np.int32), starts, np.arange(1200, dtype=np.int32))
    found = []
    for bias in (special, general):
        found.append(walk(build_walk_graph(csr(num_nodes, edges), bias), bias, starts, keys, 20, 64)[0])
    np.testing.assert_array_equal(*found)


def test_dead_ends_stop_a_walk():
    edges = {(0, 1): 1.0, (1, 2): 1.0, (3, 3): 1.0}
    nodes, lengths = run(5, edges, 0.5, 2.0, 5, 4)
    assert lengths.tolist() == [3, 2, 1, 4, 1]
    assert nodes.tolist() == [[0, 1, 2, -1], [1, 2, -1, -1], [2, -1, -1, -1], [3, 3, 3, 3], [4, -1, -1, -1]]


def test_no_walks_are_none():
    nodes, lengths = run(*GRAPHS["golden"], 0.5, 2.0, 0, 4)
    assert nodes.shape == (0, 4)
    assert lengths.shape == (0,)


@pytest.mark.parametrize(("p", "q", "weighted"), [(0.5, 2.0, True), (1.0, 1.0, True), (2.0, 1.0, False)])
def test_bytes_are_those_of_the_graph(p, q, weighted):
    num_nodes, edges = GRAPHS["random"]
    bias = make_bias(p, q)
    graph = build_walk_graph(csr(num_nodes, edges), bias, weighted)
    assert walk_graph_bytes(num_nodes, len(edges), bias, weighted) == sum(a.nbytes for a in graph)


def test_return_weights_are_those_of_the_reverse_edge():
    edges = {(0, 1): 5.0, (1, 0): 7.0, (1, 2): 3.0}
    graph = build_walk_graph(csr(3, edges), make_bias(0.5, 1.0))
    assert graph.return_weights.tolist() == [7.0, 5.0, 0.0]
    assert graph.weight_sums.tolist() == [5.0, 10.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    edges=st.dictionaries(st.tuples(st.integers(0, 6), st.integers(0, 6)), st.floats(2**-10, 2**10, width=32)),
    p=st.floats(1e-4, 1e4),
    q=st.floats(1e-4, 1e4),
    walk_length=st.integers(2, 9),
    weighted=st.booleans(),
)
def test_walks_follow_edges_and_stop_only_where_there_are_none(edges, p, q, walk_length, weighted):
    nodes, lengths = run(7, edges, p, q, 70, walk_length, weighted=weighted)
    for row, length in zip(nodes.tolist(), lengths.tolist(), strict=True):
        assert all(step in edges for step in pairwise(row[:length]))
        assert length == walk_length or not any(src == row[length - 1] for src, _ in edges)
