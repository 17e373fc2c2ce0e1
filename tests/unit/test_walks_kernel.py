"""The walk kernel against enumerated probabilities: chi-square over every (previous, current) pair of small graphs."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recspark.graph.csr import Csr
from recspark.walks.kernel import walk, walk_keys
from recspark.walks.walk_graph import build_walk_graph, make_bias, walk_graph_bytes

NUM_STEPS = 1_000_000


def csr(num_nodes, edges):
    """The graph of {(src, dst): weight}."""
    ordered = sorted(edges)
    indptr = np.cumsum([0, *np.bincount([s for s, _ in ordered], minlength=num_nodes)]).astype(np.int64)
    weights = np.array([edges[e] for e in ordered], np.float32)
    return Csr(indptr, np.array([d for _, d in ordered], np.int32), weights)


def both_ways(edges):
    return edges | {(d, s): w for (s, d), w in edges.items()}


def random_edges(num_nodes, num_edges, seed, directed):
    random = np.random.default_rng(seed)
    pairs = random.permutation([(s, d) for s in range(num_nodes) for d in range(num_nodes) if s != d])[:num_edges]
    edges = {(int(s), int(d)): float(random.integers(1, 9)) for s, d in pairs}
    if not directed:
        return both_ways({e: w for e, w in edges.items() if e[::-1] not in edges or e[0] < e[1]})
    return edges | {(n, (n + 1) % num_nodes): 1.0 for n in range(num_nodes)}  # no dead ends


GRAPHS = {  # (nodes, edges)
    "golden": (5, both_ways({(0, 1): 1.0, (0, 2): 1.0, (1, 2): 2.0, (1, 3): 4.0, (3, 4): 1.0})),
    "clique_and_tail": (
        7,
        both_ways({(s, d): 1.0 + s + d for s in range(5) for d in range(s)} | {(4, 5): 9.0, (5, 6): 0.1}),
    ),
    "star": (6, both_ways({(0, d): float(d) for d in range(1, 6)})),
    "random": (12, random_edges(12, 40, 3, directed=False)),
    "directed": (8, random_edges(8, 22, 4, directed=True)),
    "self_loop": (4, both_ways({(0, 0): 2.0, (0, 1): 1.0, (1, 2): 3.0, (0, 2): 1.0, (2, 3): 1.0})),
}  # fmt: skip
SETTINGS = [(0.5, 2.0), (2.0, 0.5), (0.05, 0.5), (0.02, 3.0), (4.0, 4.0), (0.25, 0.25), (1.0, 3.0), (1.0, 1.0)]


def transition(edges, p, q, previous, node):
    """{next: probability} of node2vec's equation 2, enumerated."""
    mass = {}
    for (src, dst), weight in edges.items():
        if src == node:
            near = (previous, dst) in edges
            mass[dst] = weight * (1 / p if dst == previous else 1.0 if near else 1 / q)
    return {dst: m / sum(mass.values()) for dst, m in mass.items()}


def run(num_nodes, edges, p, q, num_walks, walk_length, *, weighted=True, seed=1, block_size=256, starts=None):
    """(nodes, lengths) of ``num_walks`` walks."""
    bias = make_bias(p, q)
    graph = build_walk_graph(csr(num_nodes, edges), bias, weighted)
    starts = np.arange(num_walks, dtype=np.int32) % num_nodes if starts is None else np.asarray(starts, np.int32)
    keys = walk_keys(seed, np.zeros(len(starts), np.int32), starts, np.arange(len(starts), dtype=np.int32))
    nodes, lengths = np.full((len(starts), walk_length), -1, np.int32), np.zeros(len(starts), np.int32)
    walk(graph, bias, starts, keys, nodes, lengths, block_size)
    return nodes, lengths


def chi_square_pvalue(nodes, edges, p, q, num_nodes):
    """P-value over all (previous, current) pairs at once: given the pair, steps are independent draws."""
    triples = np.bincount(
        (nodes[:, :-2].astype(np.int64) * num_nodes + nodes[:, 1:-1]).ravel() * num_nodes + nodes[:, 2:].ravel(),
        minlength=num_nodes**3,
    ).reshape((num_nodes,) * 3)
    statistic, freedom = 0.0, 0
    for previous, node in np.argwhere(triples.sum(axis=2) > 0):
        counts = triples[previous, node]
        chances = transition(edges, p, q, int(previous), int(node))
        assert set(np.flatnonzero(counts)) <= set(chances), "walked along an edge that is not there"
        expected = np.array([c * counts.sum() for c in chances.values()])
        found = counts[list(chances)]
        if expected.min() < 5:  # too few for the chi-square approximation: pooled
            rare = expected < 5
            expected = np.append(expected[~rare], expected[rare].sum())
            found = np.append(found[~rare], found[rare].sum())
            if expected[-1] < 5:
                expected, found = expected[:-1], found[:-1]
        statistic += ((found - expected) ** 2 / expected).sum()
        freedom += max(len(expected) - 1, 0)
    assert freedom > 0
    return stats.chi2.sf(statistic, freedom)


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
        nodes, lengths = np.empty((1200, 20), np.int32), np.empty(1200, np.int32)
        walk(build_walk_graph(csr(num_nodes, edges), bias), bias, starts, keys, nodes, lengths, 64)
        found.append(nodes)
    np.testing.assert_array_equal(*found)


def test_dead_ends_stop_a_walk_and_leave_the_rest_untouched():
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
