"""Shifted PPMI by hand and by dense arithmetic, its factors against numpy's SVD."""

import sys

import numpy as np
import pytest
import scipy.sparse as sp

from recspark.baselines import pairs
from recspark.baselines.ppmi_svd import build_ppmi, build_ppmi_svd, count_pairs
from recspark.config.baselines import PpmiSvdConfig
from recspark.errors import DataError, SetupError


def random_users(seed=0, num_users=70, num_items=24):
    """Users of three topics; nobody has the last item."""
    random = np.random.default_rng(seed)
    topics = random.integers(0, 3, num_users)
    likes = np.where(np.arange(num_items)[None, :] % 3 == topics[:, None], 0.5, 0.08)
    dense = (random.random(likes.shape) < likes).astype(float)
    dense[:, -1] = 0
    return dense


def explicit_ppmi(counts, smoothing, shift):
    """Levy & Goldberg 2014, eq. 10-11, cell by cell."""
    totals = counts.sum(axis=1)
    chance = totals**smoothing / (totals**smoothing).sum()
    found = np.zeros_like(counts)
    for i, j in zip(*np.nonzero(counts), strict=True):
        found[i, j] = max(0.0, np.log(counts[i, j] / (totals[i] * chance[j])) - np.log(shift))
    return found


def test_pairs_are_counted_by_hand():
    users = sp.csr_array(np.array([[1.0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]))
    assert count_pairs(users, 0).toarray().tolist() == [[0, 2, 1, 1], [2, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]
    damped = count_pairs(users, 0.5).toarray()
    assert damped[0] == pytest.approx([0, 1 / np.sqrt(2) + 1 / 2, 1 / 2, 1 / 2])


def test_ppmi_by_hand():
    counts = sp.csr_array(np.array([[0.0, 3, 1], [3, 0, 0], [1, 0, 0]]))
    # totals 4, 3, 1 of 8: pair (0, 1) log(3 / (4 * 3/8)) = log 2, pair (0, 2) log(1 / (4 * 1/8)) = log 2
    expected = np.log([[1, 2, 2], [2, 1, 1], [2, 1, 1]])
    np.testing.assert_allclose(build_ppmi(counts, 1.0, 1.0).toarray(), expected, atol=1e-12)
    shifted = build_ppmi(counts, 1.0, 1.5).toarray()
    np.testing.assert_allclose(shifted, np.maximum(expected - np.log(1.5), 0), atol=1e-12)
    assert build_ppmi(counts, 1.0, 2.5).nnz == 0


@pytest.mark.parametrize(("smoothing", "shift"), [(1.0, 1.0), (0.75, 1.0), (0.75, 3.0)])
def test_ppmi_equals_the_formula_cell_by_cell(smoothing, shift):
    counts = count_pairs(sp.csr_array(random_users()), 0.5)
    found = build_ppmi(counts, smoothing, shift).toarray()
    np.testing.assert_allclose(found, explicit_ppmi(counts.toarray(), smoothing, shift), atol=1e-12)


def test_factors_give_back_the_best_approximation():
    users, config = sp.csr_array(random_users()), PpmiSvdConfig()
    factors = build_ppmi_svd(users, 6, config, seed=1)
    dense = build_ppmi(count_pairs(users, config.length_power), config.smoothing, config.shift).toarray()
    left, values, right = np.linalg.svd(dense)
    best = (left[:, :6] * values[:6]) @ right[:6]
    np.testing.assert_allclose(factors.input @ factors.output.T, best, atol=1e-2 * values[0])
    np.testing.assert_allclose((factors.input**2).sum(axis=0), values[:6], rtol=1e-2)
    assert factors.is_known.tolist() == [True] * 23 + [False]
    assert not factors.input[23].any()
    assert factors.counts == {"num_pairs": np.count_nonzero(count_pairs(users, 0).toarray()),
                              "num_pairs_above_chance": np.count_nonzero(dense)}  # fmt: skip


def test_the_singular_values_power_only_scales():
    users = sp.csr_array(random_users())
    plain, scaled = (build_ppmi_svd(users, 4, PpmiSvdConfig(singular_value_power=p), 1) for p in (0.0, 1.0))
    np.testing.assert_allclose(np.linalg.norm(plain.input, axis=0), 1, rtol=1e-5)
    values = np.linalg.norm(scaled.input, axis=0)
    np.testing.assert_allclose(scaled.output, plain.output * values, atol=1e-5)


def test_a_seed_of_63_bits_is_one():
    users = sp.csr_array(random_users())
    assert np.isfinite(build_ppmi_svd(users, 5, PpmiSvdConfig(), seed=2**63 - 1).input).all()


def test_a_seed_repeats_and_items_of_a_topic_lie_together():
    users = sp.csr_array(random_users(num_users=300))
    first, second = (build_ppmi_svd(users, 5, PpmiSvdConfig(), seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.input, second.input)
    unit = first.input[:23] / np.linalg.norm(first.input[:23], axis=1, keepdims=True)
    similarity = unit @ unit.T - 2 * np.eye(23)
    assert (np.argmax(similarity, axis=1) % 3 == np.arange(23) % 3).all()


def test_fewer_items_than_dimensions_leave_zeros():
    factors = build_ppmi_svd(sp.csr_array(random_users(num_items=6)), 10, PpmiSvdConfig(), seed=1)
    assert factors.input.shape == factors.output.shape == (6, 10)
    assert not factors.input[:, 6:].any()


@pytest.mark.parametrize("dim", [12, 64])
def test_more_unscaled_directions_than_tell_items_apart_are_refused(dim):
    users = sp.csr_array(random_users())
    with pytest.raises(
        DataError, match=r"but 23 items .* to 11 or less, or set baselines.ppmi_svd.singular_value_power"
    ):
        build_ppmi_svd(users, dim, PpmiSvdConfig(singular_value_power=0), seed=1)
    build_ppmi_svd(users, 11, PpmiSvdConfig(singular_value_power=0), seed=1)
    build_ppmi_svd(users, dim, PpmiSvdConfig(), seed=1)


def test_histories_without_a_pair_are_refused():
    with pytest.raises(DataError, match=r"none of 0 pairs of items that share a user is above chance"):
        build_ppmi_svd(sp.csr_array(np.eye(4)), 2, PpmiSvdConfig(), seed=1)


def test_pairs_that_memory_cannot_hold_are_refused(monkeypatch):
    monkeypatch.setattr(pairs, "free_memory_bytes", lambda: 1000)
    with pytest.raises(SetupError, match=r"baselines.ppmi_svd: .* are free; take it out"):
        build_ppmi_svd(sp.csr_array(random_users()), 2, PpmiSvdConfig(), seed=1)


def test_without_scikit_learn_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.utils.extmath", None)
    with pytest.raises(SetupError, match=r"pip install 'recspark\[baselines\]'"):
        build_ppmi_svd(sp.csr_array(random_users()), 2, PpmiSvdConfig(), seed=1)
