"""Noise and starting vectors: exact probabilities, draws that follow them, and nothing that depends on who asks."""

import numpy as np
import pytest
from scipy import stats

from recspark.errors import DataError
from recspark.training.init import init_rows
from recspark.training.negatives import build_noise, keep_probabilities, leave_out_rare


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(0.5, [1 / 6, 2 / 6, 0, 3 / 6]), (1.0, [1 / 14, 4 / 14, 0, 9 / 14]), (0.0, [1 / 3, 1 / 3, 0, 1 / 3]),
     (-0.5, [6 / 11, 3 / 11, 0, 2 / 11])],
)  # fmt: skip
def test_probabilities_worked_by_hand(exponent, expected):
    noise = build_noise(np.array([1, 4, 0, 9]), exponent)
    np.testing.assert_allclose(noise.probabilities, expected, rtol=1e-12)


@pytest.mark.parametrize("exponent", [-1.0, -0.3, 0.0, 0.75, 1.0])
def test_tables_hold_exactly_the_probabilities(exponent):
    rng = np.random.default_rng(1)
    counts = (rng.pareto(1.0, 3000) * 3).astype(np.int64)  # many zeros, a few very popular
    noise = build_noise(counts, exponent)
    held = noise.threshold.astype(np.float64)
    np.add.at(held, noise.alias, 1 - noise.threshold.astype(np.float64))
    np.testing.assert_allclose(held / len(counts), noise.probabilities, atol=1e-9)
    assert (counts == 0).sum() > 100
    assert held[counts == 0].max() == 0


@pytest.mark.parametrize("exponent", [-1.0, 0.5, 1.0])
def test_draws_follow_the_probabilities(exponent):
    counts = np.array([1, 2, 0, 30, 4, 50, 6, 7, 0, 1000])
    noise = build_noise(counts, exponent)
    drawn = np.bincount(noise.draw(3, 11, 200_000), minlength=10)
    seen = counts > 0
    assert drawn[~seen].sum() == 0
    assert stats.chisquare(drawn[seen], noise.probabilities[seen] * 200_000).pvalue > 1e-3


def test_draws_of_different_steps_are_independent():
    noise = build_noise(np.full(4, 5), 1.0)
    pairs = np.bincount(noise.draw(1, 7, 100_000) * 4 + noise.draw(1, 8, 100_000), minlength=16)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_draws_depend_on_seed_and_step_only():
    noise = build_noise(np.arange(1, 1001), 0.5)
    drawn = noise.draw(1, 2, 500)
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(noise.draw(1, 2, 500), drawn)
    np.testing.assert_array_equal(noise.draw(1, 2, 900)[:500], drawn)
    assert (noise.draw(1, 3, 500) != drawn).mean() > 0.9
    assert (noise.draw(2, 2, 500) != drawn).mean() > 0.9


def test_items_without_train_events_leave_nothing_to_draw():
    with pytest.raises(DataError, match="no item of 7 has a train event"):
        build_noise(np.zeros(7, np.int64), 0.5)


def test_keep_probabilities_worked_by_hand():
    keep = keep_probabilities(np.array([1, 9, 90]), 0.01)
    # shares .01, .09, .9: sqrt(t/f) + t/f = 2, 1/3 + 1/9, sqrt(1/90) + 1/90
    np.testing.assert_allclose(keep, [1, 4 / 9, 0.1165204], rtol=1e-5)
    assert keep.dtype == np.float32


@pytest.mark.parametrize("subsample", [0.0, 10.0])
def test_no_subsampling_keeps_everything_that_has_events(subsample):
    np.testing.assert_array_equal(keep_probabilities(np.array([1, 0, 10**9]), subsample), [1, 0, 1])


def test_rare_items_are_neither_kept_nor_drawn():
    counts = leave_out_rare(np.array([9, 1, 4, 0, 3]), 3)
    assert counts.tolist() == [9, 0, 4, 0, 3]
    np.testing.assert_allclose(build_noise(counts, 0.5).probabilities, np.array([3, 0, 2, 0, 3**0.5]) / (5 + 3**0.5))
    assert keep_probabilities(counts, 0.0).tolist() == [1, 0, 1, 0, 1]
    assert leave_out_rare(np.array([9, 1, 0]), 1).tolist() == [9, 1, 0]


def test_a_min_count_that_leaves_nothing_to_compare_is_refused():
    with pytest.raises(
        DataError, match=r"min_count: 1 of 3 items have 5 train events or more, the most frequent one ha"
    ):
        leave_out_rare(np.array([9, 1, 4]), 5)


def test_a_starting_row_depends_on_seed_and_row_only():
    table = init_rows(np.arange(1000), 16, 0.1, seed=5)
    some = np.array([999, 3, 3, 500])
    np.testing.assert_array_equal(init_rows(some, 16, 0.1, seed=5), table[some])
    assert (init_rows(some, 16, 0.1, seed=6) != table[some]).all()
    assert len(np.unique(table)) > 0.99 * table.size * (1 - table.size / 2**24)


def test_starting_rows_are_uniform_and_centred():
    table = init_rows(np.arange(5000), 16, 0.1, seed=5)
    half_width = 0.1 / 4
    assert np.abs(table).max() <= half_width
    assert stats.kstest(table.ravel(), "uniform", (-half_width, 2 * half_width)).pvalue > 1e-3
    assert table.dtype == np.float32
