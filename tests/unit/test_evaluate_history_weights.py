"""Weights by place: by hand, by loops, and the ends of their ranges."""

import itertools

import numpy as np
import pytest

from recspark.evaluate.history_weights import ALL_ALIKE, HistoryWeights
from recspark.evaluate.ragged import Ragged

SOME = [HistoryWeights(*pair) for pair in itertools.product((1.0, 0.9, 0.3), (None, 1, 3))]


def random_histories(seed=0, num_users=60):
    random = np.random.default_rng(seed)
    return Ragged.from_rows([random.integers(0, 12, n).tolist() for n in random.integers(0, 15, num_users)])


def rows_of(ragged, weights):
    return [
        list(zip(ragged.row(r).tolist(), weights[ragged.offsets[r] : ragged.offsets[r + 1]].tolist(), strict=True))
        for r in range(len(ragged))
    ]


def assert_rows(found, expected):
    assert [len(row) for row in found] == [len(row) for row in expected]
    np.testing.assert_allclose([p for row in found for p in row], [p for row in expected for p in row], rtol=1e-12)


def test_each_item_counts_by_its_place_from_the_last():
    history = Ragged.from_rows([[4, 7, 4, 9], [], [5]])
    assert rows_of(*HistoryWeights(0.5).weigh(history)) == [[(4, 0.125), (7, 0.25), (4, 0.5), (9, 1)], [], [(5, 1)]]
    assert rows_of(*HistoryWeights(0.5, 2).weigh(history)) == [[(4, 0.5), (9, 1)], [], [(5, 1)]]
    assert rows_of(*HistoryWeights(num_items=3).weigh(history))[0] == [(7, 1), (4, 1), (9, 1)]


def test_a_distinct_item_counts_once_by_its_newest_place():
    history = Ragged.from_rows([[4, 7, 4, 9], [], [5, 5]])
    assert rows_of(*HistoryWeights(0.5).weigh_distinct(history)) == [[(4, 0.5), (7, 0.25), (9, 1)], [], [(5, 1)]]
    assert rows_of(*HistoryWeights(0.5, 2).weigh_distinct(history)) == [[(4, 0.5), (9, 1)], [], [(5, 1)]]


@pytest.mark.parametrize("weights", SOME)
def test_weights_equal_a_slow_reading_of_the_rule(weights):
    history = random_histories()
    each, once = [], []
    for items in (history.row(r).tolist() for r in range(len(history))):
        newest_first = [(item, weights.decay**place) for place, item in enumerate(items[::-1])][: weights.num_items]
        each.append(newest_first[::-1])
        once.append(sorted(dict(newest_first[::-1]).items()))  # a dict keeps what comes last
    assert_rows(rows_of(*weights.weigh(history)), each)
    assert_rows(rows_of(*weights.weigh_distinct(history)), once)
    assert np.array_equal(weights.cut(history).values, weights.weigh(history)[0].values)


def test_by_default_all_count_one():
    history = random_histories()
    kept, weights = ALL_ALIKE.weigh(history)
    assert kept is history
    distinct, of_distinct = ALL_ALIKE.weigh_distinct(history)
    assert np.array_equal(distinct.values, history.distinct().values)
    assert set(weights.tolist()) == set(of_distinct.tolist()) == {1.0}


@pytest.mark.parametrize("decay", [1e-300, 1e-3])
def test_the_newest_weighs_one_however_fast_the_rest_falls(decay):
    long = Ragged.from_rows([list(range(2_000))])
    _, weights = HistoryWeights(decay).weigh(long)
    assert weights[-1] == 1
    assert np.isfinite(weights).all()
    assert weights[:-1].sum() == pytest.approx(decay / (1 - decay), rel=1e-9)


@pytest.mark.parametrize("weights", SOME)
def test_no_users_and_no_items(weights):
    for history in (Ragged.empty(0), Ragged.empty(3)):
        for kept, values in (weights.weigh(history), weights.weigh_distinct(history)):
            assert (len(kept), len(kept.values), len(values)) == (len(history), 0, 0)
