"""Recall and the choice of nprobe, against hand-worked numbers and a full sort."""

import dataclasses

import numpy as np
import pytest

from recspark.index.recall import CurvePoint, ExactSearch, choose_point, recall_at, without_own
from tests.helpers.index_lake import exact_top, make_items


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_exact_search_in_blocks_equals_a_full_sort(metric, monkeypatch):
    monkeypatch.setattr("recspark.index.recall._EXACT_BLOCK", 64)
    items = make_items(300, 8, bias=0.5, queries=True)
    exact = ExactSearch(dataclasses.replace(items, metric=metric))
    ids, scores = exact.search(items.queries[:30], 80)
    wanted_ids, wanted_scores = exact_top(items, items.queries[:30], 80, metric)
    np.testing.assert_array_equal(ids, wanted_ids)
    np.testing.assert_allclose(scores, wanted_scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exact.scores_of(items.queries[:30], ids), wanted_scores, rtol=1e-4, atol=1e-5)


def test_missing_results_score_minus_infinity():
    items = make_items(20, 4)
    assert np.isneginf(
        ExactSearch(dataclasses.replace(items, metric="ip")).scores_of(items.vectors[:1], np.array([[-1]]))
    ).all()


def test_recall_by_hand():
    wanted = np.array([[9.0, 8.0, 7.0], [5.0, 4.0, 3.0]], np.float32)
    reached = np.array([[9.0, 7.0, 1.0], [4.0, 3.0, -np.inf]], np.float32)
    assert recall_at(1, reached, wanted) == pytest.approx((1 + 0) / 2)
    assert recall_at(2, reached, wanted) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert recall_at(3, reached, wanted) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_equal_items_stand_in_for_each_other():
    assert recall_at(2, np.array([[2.0, 2.0]], np.float32), np.array([[2.0, 2.0]], np.float32)) == 1.0


def test_lists_shorter_than_k_are_measured_by_what_exists():
    wanted = np.array([[2.0, 1.0, -np.inf]], np.float32)
    assert recall_at(3, np.array([[2.0, -np.inf, -np.inf]], np.float32), wanted) == pytest.approx(0.5)
    assert recall_at(3, wanted, wanted) == 1.0


def test_the_own_item_is_left_out_wherever_it_stands():
    ids = np.array([[7, 1, 2], [1, 2, 3], [1, 7, 2]])
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]], np.float32)
    kept, kept_scores = without_own(ids, scores, np.array([7, 7, 7]), 2)
    assert kept.tolist() == [[1, 2], [1, 2], [1, 2]]
    assert kept_scores.tolist() == [[2, 1], [3, 2], [3, 1]]


def test_nothing_to_find_is_all_found():
    """Beside the only item there is no other: its build is not refused by index.min_recall."""
    nothing = np.full((1, 1), -np.inf, np.float32)
    assert recall_at(1, nothing, nothing) == 1.0
    wanted = np.array([[1.0], [-np.inf]], np.float32)
    assert recall_at(1, np.full((2, 1), -np.inf, np.float32), wanted) == 0.5


def test_the_cheapest_setting_that_reaches_the_target_is_chosen():
    rows = [(1, 0.5, 0.3), (2, 0.94, 0.7), (4, 0.96, 0.92), (8, 0.987, 0.95), (16, 0.99, 0.99)]
    curve = [CurvePoint(effort, 0, at_10, at_100, 0, 0, 0) for effort, at_10, at_100 in rows]
    assert choose_point(curve, 10, 0.95).effort == 4
    assert choose_point(curve, 100, 0.95).effort == 8
    assert choose_point(curve, 10, 0.99).effort == 16  # the best, and no less: .987 is within .005 of it
    assert choose_point(curve, 10, 0.999).effort == 8  # out of reach: within .005 of the best
    assert choose_point(curve, 10, 0.999, floor=0.988).effort == 16  # unless that is below the floor
    assert choose_point(curve, 10, 0.9, floor=0.95).effort == 4
    assert choose_point(curve, 10, 0.999, floor=0.995).effort == 16
    assert choose_point(curve, 10, 0.95, asked=2, floor=0.95).effort == 2
