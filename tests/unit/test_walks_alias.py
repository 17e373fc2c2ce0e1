import numpy as np
import pytest
from numba import njit
from scipy import stats

from recspark.errors import DataError
from recspark.walks.alias import build_alias, draw_alias
from recspark.walks.rng import draw


def implied(threshold, alias):
    """What a table yields: each column's own share and what its coin passes on."""
    n = len(threshold)
    own = threshold.astype(np.float64)
    return (own + np.bincount(alias, weights=1.0 - own, minlength=n)) / n


@njit
def draw_many(threshold, alias, count):
    out = np.empty(count, np.int64)
    for i in range(count):
        out[i] = draw_alias(threshold, alias, draw(np.uint64(7), np.uint64(i)))
    return out


def test_hand_worked_table():
    # Scaled by 3: [1.5, .75, .75]. Column 2 (last in) takes .25 of column 0, then column 1 another .25: 0 is full.
    threshold, alias = build_alias(np.array([0.5, 0.25, 0.25]))
    np.testing.assert_allclose(threshold, [1.0, 0.75, 0.75])
    np.testing.assert_array_equal(alias, [0, 0, 0])
    assert (threshold.dtype, alias.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000, 100_000])
@pytest.mark.parametrize("shape", ["uniform", "equal", "zipf", "one_heavy", "some_zero", "tiny"])
def test_implied_probabilities_equal_the_input(n, shape):
    random = np.random.default_rng(n)
    weights = {
        "uniform": random.random(n) + 1e-9,
        "equal": np.full(n, 0.1),
        "zipf": random.permutation(1 / np.arange(1, n + 1)),
        "one_heavy": np.r_[np.full(n - 1, 1e-12), 1.0],
        "some_zero": np.r_[random.random(n - 1) * (random.random(n - 1) < 0.5), 1.0],
        "tiny": random.random(n) * 1e-300 + 1e-302,
    }[shape]
    threshold, alias = build_alias(weights)
    assert threshold.min() >= 0
    assert threshold.max() <= 1
    np.testing.assert_allclose(implied(threshold, alias), weights / weights.sum(), rtol=0, atol=1e-6)
    assert not (implied(threshold, alias)[weights == 0] > 0).any()


def test_draws_follow_the_probabilities():
    probabilities = np.array([0.4, 0.0, 0.3, 0.2, 0.05, 0.05])
    drawn = np.bincount(draw_many(*build_alias(probabilities), 1_000_000), minlength=6)
    assert drawn[1] == 0
    keep = probabilities > 0
    assert stats.chisquare(drawn[keep], probabilities[keep] * 1_000_000).pvalue > 1e-3


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [0.5, -0.1], [np.nan, 1.0], [np.inf, 1.0]])
def test_bad_probabilities_are_refused(bad):
    with pytest.raises(DataError, match="alias table: probabilities must be a list of numbers >= 0"):
        build_alias(np.array(bad))
