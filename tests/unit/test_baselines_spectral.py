"""Spectral vectors against numpy's eigenvectors; a space of equal eigenvalues is compared, not its basis."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import ArpackNoConvergence

from recspark.baselines import spectral
from recspark.baselines.spectral import build_spectral_from_graph, build_spectral_from_users
from recspark.config.baselines import SpectralConfig
from recspark.errors import DataError, TrainingError
from tests.helpers.tiny_lake import rows_of


def graph_of(dense):
    """item_graph of a weight matrix."""
    rows = [
        {"src_idx": i, "dst_idx": np.flatnonzero(row).tolist(), "score": row[row > 0].tolist(), "count": []}
        for i, row in enumerate(dense)
        if row.any()
    ]
    return rows_of("item_graph", rows)


def random_graph(seed=0, num_nodes=40):
    """Symmetric weights; the last node is isolated."""
    random = np.random.default_rng(seed)
    upper = np.triu(np.where(random.random((num_nodes, num_nodes)) < 0.2, random.random((num_nodes, num_nodes)), 0), 1)
    upper[:, -1] = 0
    return upper + upper.T


def normalised(dense):
    degrees = dense.sum(axis=1)
    damping = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1e-12)), 0)
    return damping[:, None] * dense * damping


def leading(matrix, count):
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:count], vectors[:, ::-1][:, :count]


@pytest.mark.parametrize(("dim", "power"), [(3, 0.0), (8, 0.0), (19, 0.0), (39, 1.0), (60, 1.0)])
def test_vectors_are_the_leading_eigenvectors_up_to_sign(dim, power):
    dense = random_graph()
    factors = build_spectral_from_graph(graph_of(dense), 40, dim, SpectralConfig(eigenvalue_power=power), seed=1)
    values, expected = leading(normalised(dense), min(dim, 40))
    expected[39] = 0
    expected = expected * np.maximum(values, 0) ** power
    found = factors.input[:, : expected.shape[1]]
    # The isolated node's own direction is zeroed, negative eigenvalues' where they scale.
    lengths = np.linalg.norm(expected, axis=0)
    is_real = lengths > 1e-3
    cosines = np.abs((found * expected).sum(axis=0))[is_real] / lengths[is_real] ** 2
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    np.testing.assert_allclose(found[:, ~is_real], 0, atol=1e-3)
    assert factors.input.shape == (40, dim)
    assert not factors.input[:, 40:].any()
    assert factors.is_known.tolist() == [True] * 39 + [False]
    assert not factors.input[39].any()
    assert factors.counts == {"isolated": 1}


def test_the_first_vector_is_the_square_root_of_degrees():
    dense = random_graph(1)
    first = build_spectral_from_graph(graph_of(dense), 40, 2, SpectralConfig(), seed=1).input[:, 0]
    np.testing.assert_allclose(first, np.sqrt(dense.sum(axis=1) / dense.sum()), atol=1e-5)


def test_skip_and_the_eigenvalues_power():
    graph = graph_of(random_graph(2))
    plain = build_spectral_from_graph(graph, 40, 6, SpectralConfig(), seed=1).input
    skipped = build_spectral_from_graph(graph, 40, 4, SpectralConfig(skip=2), seed=1).input
    np.testing.assert_allclose(skipped, plain[:, 2:], atol=1e-5)
    values, _ = leading(normalised(random_graph(2)), 6)
    scaled = build_spectral_from_graph(graph, 40, 6, SpectralConfig(eigenvalue_power=2), seed=1).input
    np.testing.assert_allclose(scaled, plain * values**2, atol=1e-5)


def test_parts_of_a_graph_are_told_apart():
    """Two parts give the eigenvalue 1 twice: any basis of that plane will do, but rows of a part are parallel."""
    dense = np.zeros((20, 20))
    for part in (slice(0, 12), slice(12, 20)):
        size = part.stop - part.start
        dense[part, part] = 1 - np.eye(size)
    rows = build_spectral_from_graph(graph_of(dense), 20, 2, SpectralConfig(), seed=1).input
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    same = np.arange(20) < 12
    np.testing.assert_allclose(unit @ unit.T, same[:, None] == same[None, :], atol=1e-4)


def test_a_directed_edge_counts_both_ways():
    upper = np.triu(random_graph(3))
    one_way, both = (
        build_spectral_from_graph(graph_of(g), 40, 4, SpectralConfig(), 1) for g in (upper, upper + upper.T)
    )
    np.testing.assert_allclose(one_way.input, both.input, atol=1e-5)


@pytest.mark.parametrize("dim", [4, 12])
def test_histories_give_the_leading_vectors_of_the_bipartite_graph(dim):
    random = np.random.default_rng(4)
    dense = (random.random((50, 25)) < 0.15).astype(float)
    dense[:, 24], dense[6] = 0, 0
    factors = build_spectral_from_users(sp.csr_array(dense), dim, SpectralConfig(), seed=1)
    users, items = dense.sum(axis=1), dense.sum(axis=0)
    walk = dense / np.sqrt(np.maximum(users, 1))[:, None] / np.sqrt(np.maximum(items, 1))
    _, _, right = np.linalg.svd(walk)
    for column in range(min(dim, 20)):
        assert abs(factors.input[:, column] @ right[column]) == pytest.approx(1, abs=1e-4)
    assert factors.input is factors.output
    assert factors.counts == {"isolated": 1}


@pytest.mark.parametrize(
    ("dim", "knobs", "expected"),
    [
        (20, {}, r"20 directions \(model.embedding_dim\), but 39 items with an edge .* to 19 or less, or set"),
        (64, {}, r"Lower model.embedding_dim to 19 or less, or set baselines.spectral.eigenvalue_power above 0"),
        (
            4,
            {"skip": 16},
            r"4 directions \(model.embedding_dim\) behind 16 skipped \(baselines.spectral.skip\), but 39",
        ),
        (4, {"skip": 300}, r"spectral.skip: 300 directions skipped, but 39 items with an edge .* have no more; low"),
        (4, {"skip": 19}, r"Lower model.embedding_dim or baselines.spectral.skip, or set"),
        (4, {"skip": 39, "eigenvalue_power": 1}, r"39 directions skipped, but 39 items"),
        (
            4,
            {"skip": 38, "eigenvalue_power": 1},
            r"no eigenvalue is above 0 behind 38 skipped; lower spec",
        ),
    ],
)
def test_more_directions_than_tell_items_apart_are_refused(monkeypatch, dim, knobs, expected):
    dense = random_graph()
    if "no eigenvalue" not in expected:
        monkeypatch.setattr(spectral, "find_leading", None)  # told before the work
    with pytest.raises(DataError, match=expected):
        build_spectral_from_graph(graph_of(dense), 40, dim, SpectralConfig(**knobs), seed=1)
    if "no eigenvalue" in expected:
        return  # of users' items all eigenvalues are 0 or above
    with pytest.raises(DataError, match=expected):
        build_spectral_from_users(sp.csr_array((dense > 0).astype(float)), dim, SpectralConfig(**knobs), seed=1)


@pytest.mark.parametrize(("dim", "power"), [(12, 0.0), (24, 0.5), (64, 0.5)])
def test_what_is_not_refused_tells_items_apart(dim, power):
    """Two tastes over 24 items: an item is nearer to those of its own than to the others."""
    random, side = np.random.default_rng(7), np.arange(24) % 2
    users = np.stack([np.where(side == u % 2, random.random(24) < 0.5, random.random(24) < 0.1) for u in range(200)])
    rows = build_spectral_from_users(
        sp.csr_array(users.astype(float)), dim, SpectralConfig(eigenvalue_power=power), seed=1
    ).input
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines, same = unit @ unit.T, side[:, None] == side[None, :]
    other = ~np.eye(24, dtype=bool)
    assert cosines[same & other].mean() > cosines[~same].mean() + 0.05


def test_the_same_seed_repeats_to_the_bit():
    graph = graph_of(random_graph(5))
    first, second = (build_spectral_from_graph(graph, 40, 5, SpectralConfig(), seed=2).input for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_eigenvectors_that_do_not_settle_are_named(monkeypatch):
    def give_up(*_, **__):
        raise ArpackNoConvergence("no", np.ones(2), np.ones((40, 2)))

    monkeypatch.setattr(spectral, "eigsh", give_up)
    with pytest.raises(TrainingError, match=r"2 of 5 eigenvectors settled; lower model.embedding_dim"):
        build_spectral_from_graph(graph_of(random_graph()), 40, 5, SpectralConfig(), seed=1)
