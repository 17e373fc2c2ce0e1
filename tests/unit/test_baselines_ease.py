"""EASE against the inverse it is defined by, and its limits."""

import numpy as np
import pytest
import scipy.sparse as sp

from recspark.baselines import ease
from recspark.baselines.ease import build_ease, check_size, rank_by_ease
from recspark.config.baselines import EaseConfig
from recspark.errors import ConfigError, SetupError
from recspark.evaluate.history_weights import HistoryWeights
from recspark.evaluate.ragged import Ragged


def random_users(seed, num_users=80, num_items=30):
    return (np.random.default_rng(seed).random((num_users, num_items)) < 0.2).astype(float)


def explicit(dense, l2):
    """Steck 2019, eq. 8."""
    inverse = np.linalg.inv(dense.T @ dense + l2 * np.eye(dense.shape[1]))
    weights = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(weights, 0)
    return weights


@pytest.mark.parametrize("block_rows", [1, 7, 1024])
@pytest.mark.parametrize("l2", [0.5, 250.0])
def test_weights_equal_the_inverse(monkeypatch, block_rows, l2):
    monkeypatch.setattr(ease, "_BLOCK_ROWS", block_rows)
    dense = random_users(0)
    weights = build_ease(sp.csr_array(dense), l2)
    np.testing.assert_allclose(weights, explicit(dense, l2), rtol=1e-5, atol=1e-7)
    assert (weights.dtype, weights.diagonal().any()) == (np.float32, False)


def test_weights_are_the_best_that_a_zero_diagonal_allows():
    dense, l2 = random_users(1, 40, 8), 3.0
    weights = build_ease(sp.csr_array(dense), l2).astype(float)

    def loss(candidate):
        return np.square(dense - dense @ candidate).sum() + l2 * np.square(candidate).sum()

    random = np.random.default_rng(2)
    for _ in range(20):
        step = random.normal(size=weights.shape) * 0.01
        np.fill_diagonal(step, 0)
        assert loss(weights + step) > loss(weights)


def test_lists_hold_known_unseen_items_by_the_sum_of_weights():
    dense, known = random_users(3, 60, 12), np.ones(12, dtype=bool)
    known[[2, 9]] = False
    columns = np.flatnonzero(known)
    weights = build_ease(sp.csr_array(dense[:, columns]), 5.0)
    histories = [[0, 1, 1], [2], [9, 3, 11]]
    found = rank_by_ease(weights, known, Ragged.from_rows(histories), Ragged.from_rows([[0, 1], [2], [3, 9, 11]]), 12)
    place = {int(item): row for row, item in enumerate(columns)}
    for row, items in enumerate(histories):
        sums = sum((weights[place[i]] for i in set(items) if known[i]), np.zeros(len(columns)))
        allowed = [int(i) for i in columns if i not in items]
        expected = sorted(allowed, key=lambda i: (-np.float32(sums[place[i]]), i))
        listed = found.ids[row][found.ids[row] >= 0]
        assert listed.tolist() == expected
        np.testing.assert_allclose(found.scores[row][: len(listed)], [sums[place[i]] for i in listed], rtol=1e-5)


def test_the_last_known_items_may_weigh_more():
    known = np.array([True, True, False, True])
    weights = np.array([[0, 0.5, 0.1], [0.25, 0, 0.2], [0.3, 0.4, 0]], np.float32)  # of items 0, 1, 3
    history, masked = Ragged.from_rows([[3, 0, 3, 0, 2]]), Ragged.empty(1)  # the newest known one is 0, then 3
    found = rank_by_ease(weights, known, history, masked, 4, HistoryWeights(0.5))
    assert found.ids.tolist() == [[1, 0, 3, -1]]
    assert found.scores[0, :3] == pytest.approx([0.5 + 0.4 / 2, 0.3 / 2, 0.1])
    found = rank_by_ease(weights, known, history, masked, 4, HistoryWeights(num_items=1))
    assert found.scores[0, :3] == pytest.approx([0.5, 0.1, 0])


def test_a_catalogue_above_the_limit_is_refused():
    message = r"ease inverts a matrix of items x items, 301 items are more than 300; take ease out .* \(0.0 GiB are"
    with pytest.raises(ConfigError, match=message):
        check_size(301, EaseConfig(max_items=300))
    check_size(300, EaseConfig(max_items=300))


def test_memory_is_looked_at_before_it_is_spent(monkeypatch):
    monkeypatch.setattr(ease, "free_memory_bytes", lambda: 1 << 20)
    with pytest.raises(SetupError, match=r"300 items with train events need 1.0 MiB, 1.0 MiB are free; take ease out"):
        check_size(300, EaseConfig())
    check_size(290, EaseConfig())
