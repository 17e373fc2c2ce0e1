"""Small graphs, walks on them, and what enumeration says of their steps."""

import numpy as np
from scipy import stats

from recspark.graph.csr import Csr
from recspark.walks.bias import make_bias
from recspark.walks.kernel import walk
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.walkers import walk_keys

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


def transition(edges, p, q, previous, node):
    """{next: probability} of node2vec's equation 2, enumerated."""
    mass = {}
    for (src, dst), weight in edges.items():
        if src == node:
            near = (previous, dst) in edges
            mass[dst] = weight * (1 / p if dst == previous else 1.0 if near else 1 / q)
    return {dst: m / sum(mass.values()) for dst, m in mass.items()}


def run(num_nodes, edges, p, q, num_walks, walk_length, *, weighted=True, seed=1, block_size=256, starts=None, **rule):
    """(nodes, lengths) of ``num_walks`` walks, cells behind their ends -1."""
    bias = make_bias(p, q, **rule)
    graph = build_walk_graph(csr(num_nodes, edges), bias, weighted)
    starts = np.arange(num_walks, dtype=np.int32) % num_nodes if starts is None else np.asarray(starts, np.int32)
    keys = walk_keys(seed, np.zeros(len(starts), np.int32), starts, np.arange(len(starts), dtype=np.int32))
    nodes, lengths = walk(graph, bias, starts, keys, walk_length, block_size)
    return np.where(np.arange(walk_length) < lengths[:, None], nodes, -1), lengths


def chi_square_pvalue(nodes, edges, p, q, num_nodes, chances_of=transition):
    """P-value over all (previous, current) pairs at once: given the pair, steps are independent draws."""
    triples = np.bincount(
        (nodes[:, :-2].astype(np.int64) * num_nodes + nodes[:, 1:-1]).ravel() * num_nodes + nodes[:, 2:].ravel(),
        minlength=num_nodes**3,
    ).reshape((num_nodes,) * 3)
    statistic, freedom = 0.0, 0
    for previous, node in np.argwhere(triples.sum(axis=2) > 0):
        counts = triples[previous, node]
        chances = chances_of(edges, p, q, int(previous), int(node))
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


def plus_transition(edges, p, q, previous, node, gamma=0.0):
    """{next: probability} of node2vec+, enumerated."""
    mass = {}
    for (src, dst), weight in edges.items():
        if src == node:
            mass[dst] = weight * (1 / p if dst == previous else plus_bias(edges, q, previous, node, dst, gamma))
    return {dst: m / sum(mass.values()) for dst, m in mass.items()}


def plus_bias(edges, q, previous, node, dst, gamma):
    """The in-out bias of a step that does not return."""
    from_previous, tight = edges.get((previous, dst), 0.0), threshold(edges, dst, gamma)
    if (previous, dst) in edges and from_previous >= tight:
        return 1.0
    if edges[node, dst] < threshold(edges, node, gamma):
        return min(1.0, 1 / q)
    return 1 / q + (1 - 1 / q) * (from_previous / tight if tight else 0)


def threshold(edges, node, gamma):
    """Mean weight of a node's edges, plus gamma standard deviations; 0 where nothing leaves it."""
    weights = [w for (src, _), w in edges.items() if src == node] or [0.0]
    return np.mean(weights) + gamma * np.std(weights)
