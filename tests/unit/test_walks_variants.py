"""node2vec+ and restarts against enumerated probabilities; for each distribution, a test that shows it can fail."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from recspark.walks.bias import make_bias
from recspark.walks.walk_graph import build_walk_graph
from tests.helpers.walk_oracle import (
    GRAPHS,
    NUM_STEPS,
    both_ways,
    chi_square_pvalue,
    csr,
    plus_transition,
    run,
    transition,
)

PLUS_SETTINGS = [(0.5, 2.0), (2.0, 0.5), (0.05, 0.5), (0.02, 3.0), (1.0, 3.0)]
# Weights: at 1, from 0; the mean weight of 1 is 2.5, of 2 it is 3, of 3 it is 2.
HAND = both_ways({(0, 1): 1.0, (0, 2): 1.0, (1, 2): 5.0, (1, 3): 3.0, (1, 4): 1.0, (3, 4): 1.0})


@pytest.mark.parametrize(("p", "q"), PLUS_SETTINGS)
@pytest.mark.parametrize("name", ["clique_and_tail", "random", "directed", "self_loop"])
def test_node2vec_plus_matches_enumeration(name, p, q):
    num_nodes, edges = GRAPHS[name]
    nodes, lengths = run(num_nodes, edges, p, q, NUM_STEPS // 100, 102, plus=True)
    assert (lengths == 102).all()
    assert chi_square_pvalue(nodes, edges, p, q, num_nodes, plus_transition) > 1e-4


@pytest.mark.parametrize(("p", "q"), [(1.0, 0.5), (0.25, 4.0), (4.0, 0.25)])
def test_node2vec_plus_with_nodes_that_nobody_leaves(p, q):
    """Nodes 2 and 5: one is a neighbour of where the walk came from, the other is not."""
    edges = {(0, 1): 1.0, (0, 2): 0.5, (1, 0): 1.0, (1, 2): 2.0, (1, 5): 3.0, (1, 3): 1.5, (3, 1): 1.0, (0, 3): 4.0}
    starts = np.tile(np.array([0, 3], np.int32), NUM_STEPS // 20)
    nodes, lengths = run(6, edges, p, q, len(starts), 3, plus=True, starts=starts)
    full = nodes[lengths == 3]
    assert len(full) > len(starts) // 2
    assert chi_square_pvalue(full, edges, p, q, 6, plus_transition) > 1e-4


def test_gamma_calls_fewer_edges_tight():
    num_nodes, edges = GRAPHS["random"]
    nodes, _ = run(num_nodes, edges, 0.5, 0.25, NUM_STEPS // 100, 102, plus=True, gamma=0.7)
    assert chi_square_pvalue(nodes, edges, 0.5, 0.25, num_nodes, partial(plus_transition, gamma=0.7)) > 1e-4
    assert chi_square_pvalue(nodes, edges, 0.5, 0.25, num_nodes, plus_transition) < 1e-6


@pytest.mark.parametrize("oracle", [partial(plus_transition, gamma=0.1), transition])
def test_the_oracle_notices_another_rule(oracle):
    num_nodes, edges = GRAPHS["random"]
    nodes, _ = run(num_nodes, edges, 0.5, 2.0, NUM_STEPS // 100, 102, plus=True)
    assert chi_square_pvalue(nodes, edges, 0.5, 2.0, num_nodes, oracle) < 1e-6


@pytest.mark.parametrize(("p", "q"), [(0.52, 2.0), (0.5, 2.1)])
def test_the_oracle_notices_a_wrong_p_or_q(p, q):
    num_nodes, edges = GRAPHS["random"]
    nodes, _ = run(num_nodes, edges, 0.5, 2.0, NUM_STEPS // 100, 102, plus=True)
    assert chi_square_pvalue(nodes, edges, p, q, num_nodes, plus_transition) < 1e-6


def test_node2vec_plus_on_a_graph_worked_by_hand():
    # p = 1/2, q = 1/4, at 1 from 0. Thresholds: 1: (1 + 5 + 3 + 1) / 4 = 2.5; 2: (1 + 5) / 2 = 3; 3: (3 + 1) / 2 = 2.
    #   0: the return edge, 1 * 2 = 2
    #   2: 0 -> 2 weighs 1 < 3, so it is loose, and 1 -> 2 is tight: 5 * (4 + (1 - 4) * 1/3) = 5 * 3 = 15
    #   3: no edge 0 -> 3, and 1 -> 3 is tight: 3 * 4 = 12
    #   4: no edge 0 -> 4, and 1 -> 4 weighs 1 < 2.5: 1 * min(1, 4) = 1
    nodes, _ = run(5, HAND, 0.5, 0.25, NUM_STEPS, 3, plus=True, starts=np.zeros(NUM_STEPS))
    third = np.bincount(nodes[nodes[:, 1] == 1, 2], minlength=5)
    expected = np.array([2, 15, 12, 1]) / 30 * third.sum()
    assert third[1] == 0
    assert stats.chisquare(third[[0, 2, 3, 4]], expected).pvalue > 1e-4


def test_thresholds_are_mean_and_deviation():
    graph = build_walk_graph(csr(5, HAND), make_bias(1.0, 2.0, plus=True, gamma=2.0))
    np.testing.assert_allclose(graph.thresholds[:3], [1.0, 2.5 + 2 * np.std([1, 5, 3, 1]), 3 + 2 * 2.0])
    assert build_walk_graph(csr(5, HAND), make_bias(1.0, 2.0)).thresholds.size == 0


@pytest.mark.parametrize("plus", [False, True])
def test_where_all_weigh_the_same_or_q_is_one_plus_changes_nothing(plus):
    num_nodes, edges = GRAPHS["random"]
    plain, _ = run(num_nodes, edges, 0.5, 2.0, 1000, 20, weighted=False)
    np.testing.assert_array_equal(run(num_nodes, edges, 0.5, 2.0, 1000, 20, weighted=False, plus=plus)[0], plain)
    of_q_1, _ = run(num_nodes, edges, 0.5, 1.0, 1000, 20)
    np.testing.assert_array_equal(run(num_nodes, edges, 0.5, 1.0, 1000, 20, plus=plus)[0], of_q_1)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("name", ["clique_and_tail", "directed"])
def test_extreme_settings_stay_exact_under_node2vec_plus(name, plus):
    num_nodes, edges = GRAPHS[name]
    for p, q in [(1e9, 1e9), (0.5, 1e3), (1e9, 1e-9), (1e4, 1e4)]:
        nodes, _ = run(num_nodes, edges, p, q, 2_000, 52, plus=plus)
        assert chi_square_pvalue(nodes, edges, p, q, num_nodes, plus_transition if plus else transition) > 1e-4


def restart_steps(restart, num_walks=NUM_STEPS // 20, **rule):
    """Walks from the end of a path 0 - 1 - 2 - 3 - 4, where a step to 0 that is no step back is a restart."""
    path = both_ways({(n, n + 1): 1.0 for n in range(4)})
    return run(5, path, 1.0, 1.0, num_walks, 21, starts=np.zeros(num_walks), restart=restart, **rule)[0]


@pytest.mark.parametrize(("told", "is_right"), [(0.15, True), (0.16, False)])
def test_restarts_are_as_frequent_as_told(told, is_right):
    nodes = restart_steps(0.15)
    before, after = nodes[:, :-1].ravel(), nodes[:, 1:].ravel()
    is_far = before > 1  # from there only a restart leads to 0
    pvalue = stats.binomtest(int((after[is_far] == 0).sum()), int(is_far.sum()), told).pvalue
    assert (pvalue > 1e-4) if is_right else (pvalue < 1e-6)


def test_a_walk_forgets_where_it_came_from_when_it_restarts():
    # From 3 it restarts at 0; had it come from there, 2 would weigh 3 and 1 only 1/4: 2 is a neighbour of 3, 1 is none.
    star = both_ways({(0, 1): 1.0, (0, 2): 3.0, (2, 3): 1.0})
    nodes, _ = run(4, star, 0.2, 4.0, NUM_STEPS // 10, 12, starts=np.zeros(NUM_STEPS // 10), restart=0.4)
    restarted = (nodes[:, 1:-1] == 0) & (nodes[:, :-2] == 3)
    after = nodes[:, 2:][restarted]
    after = after[after != 0]  # another restart
    assert stats.binomtest(int((after == 1).sum()), len(after), 0.25).pvalue > 1e-4


def test_restarts_leave_other_steps_what_they_are():
    num_nodes, edges = GRAPHS["random"]
    without, _ = run(num_nodes, edges, 0.5, 2.0, 2000, 15)
    with_some, _ = run(num_nodes, edges, 0.5, 2.0, 2000, 15, restart=0.2)
    is_start = with_some == with_some[:, :1]
    is_start[:, 0] = False
    firsts = np.where(is_start.any(axis=1), is_start.argmax(axis=1), 15)
    assert (firsts < 15).any()
    for mine, other, stop in zip(with_some.tolist(), without.tolist(), firsts, strict=True):
        assert mine[:stop] == other[:stop], "until its first restart a walk is the one without restarts"


def test_a_dead_end_is_left_by_a_restart_only():
    nodes, lengths = run(3, {(0, 1): 1.0, (1, 2): 1.0}, 1.0, 1.0, 30_000, 10, starts=np.zeros(30_000), restart=0.3)
    followers = [
        row[i + 1] for row, n in zip(nodes.tolist(), lengths, strict=True) for i in range(n - 1) if row[i] == 2
    ]
    assert set(followers) == {0}
    ends = [row[n - 1] for row, n in zip(nodes.tolist(), lengths, strict=True) if n < 10]
    assert set(ends) == {2}
    assert stats.binomtest(len(followers), len(followers) + len(ends), 0.3).pvalue > 1e-4


@pytest.mark.parametrize("rule", [{"plus": True}, {"restart": 0.2}, {"plus": True, "restart": 0.2}])
def test_the_same_walks_for_every_block_size(rule):
    num_nodes, edges = GRAPHS["random"]
    reference, _ = run(num_nodes, edges, 0.5, 2.0, 2_000, 30, block_size=1, **rule)
    for block_size in (2, 64, 5_000):
        np.testing.assert_array_equal(
            run(num_nodes, edges, 0.5, 2.0, 2_000, 30, block_size=block_size, **rule)[0], reference
        )


def test_pinned_walks_of_the_variants():
    # A change of these is a change of tables: raise the format version of `walks` with it.
    assert run(*GRAPHS["random"], 0.5, 2.0, 3, 8, plus=True)[0].tolist() == [
        [0, 9, 10, 9, 5, 8, 9, 2],
        [1, 2, 1, 4, 1, 4, 9, 2],
        [2, 3, 2, 1, 4, 1, 9, 1],
    ]
    assert run(*GRAPHS["golden"], 0.5, 2.0, 3, 8, restart=0.25)[0].tolist() == [
        [0, 1, 3, 1, 3, 1, 3, 1],
        [1, 2, 1, 2, 1, 1, 3, 4],
        [2, 2, 1, 2, 1, 2, 2, 1],
    ]
