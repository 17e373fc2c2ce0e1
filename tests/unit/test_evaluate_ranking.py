"""Ranking metrics against hand arithmetic and against a slow reading of their definitions."""

import math

import numpy as np
import pytest

from recspark.evaluate.beyond import coverage, novelty, popularity_lift
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.ranking import RANKING_METRICS, find_hits

# One user, five places: hits at places 1 and 3; relevant 4 items.
HITS = np.array([[True, False, True, False, False]])
FOUR = np.array([4])


@pytest.mark.parametrize(
    ("name", "k", "num_relevant", "expected"),
    [
        ("recall", 3, 4, 2 / 4),
        ("recall", 1, 4, 1 / 4),
        ("recall", 5, 2, 1.0),
        ("hr", 1, 4, 1.0),
        ("ndcg", 3, 4, (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2)),
        ("ndcg", 5, 4, (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(5))),  # ideal: 4 places of 5
        ("ndcg", 5, 2, (1 + 1 / 2) / (1 + 1 / math.log2(3))),  # ideal: min(5, 2) places
        ("ndcg", 2, 9, 1 / (1 + 1 / math.log2(3))),
        ("mrr", 3, 4, 1.0),
        ("map", 3, 4, (1 / 1 + 2 / 3) / 3),
        ("map", 5, 4, (1 / 1 + 2 / 3) / 4),
        ("map", 5, 2, (1 / 1 + 2 / 3) / 2),
    ],
)
def test_metrics_equal_hand_arithmetic(name, k, num_relevant, expected):
    assert RANKING_METRICS[name](HITS, np.array([num_relevant]), k) == pytest.approx([expected])


def test_the_first_hit_decides_the_reciprocal_rank():
    hits = np.array([[False, False, True, True], [False, False, False, False]])
    assert RANKING_METRICS["mrr"](hits, FOUR, 4).tolist() == [1 / 3, 0.0]
    assert RANKING_METRICS["mrr"](hits, FOUR, 2).tolist() == [0.0, 0.0]
    assert RANKING_METRICS["hr"](hits, FOUR, 2).tolist() == [0.0, 0.0]


def _slow(name, listed, relevant, k):
    listed, relevant = list(listed[:k]), set(relevant)
    hit = [item in relevant for item in listed]
    if name == "recall":
        return len(relevant.intersection(i for i in listed if i >= 0)) / len(relevant)
    if name == "hr":
        return float(any(hit))
    if name == "mrr":
        return next((1 / place for place, h in enumerate(hit, 1) if h), 0.0)
    if name == "map":
        return sum(sum(hit[:p]) / p for p in range(1, len(hit) + 1) if hit[p - 1]) / min(k, len(relevant))
    gains = sum(1 / math.log2(place + 1) for place, h in enumerate(hit, 1) if h)
    return gains / sum(1 / math.log2(place + 1) for place in range(1, min(k, len(relevant)) + 1))


@pytest.mark.parametrize("name", sorted(RANKING_METRICS))
@pytest.mark.parametrize("k", [1, 3, 10, 25])
def test_metrics_equal_their_definitions(name, k):
    random = np.random.default_rng(k)
    lists = np.array([random.permutation(40)[:20] for _ in range(60)])
    for row in lists:
        row[random.integers(1, 21) :] = -1  # lists that run short
    relevant = [sorted(random.choice(50, random.integers(1, 30), replace=False).tolist()) for _ in range(60)]
    ragged = Ragged.from_rows(relevant)
    found = RANKING_METRICS[name](find_hits(lists, ragged), ragged.lengths, k)
    expected = [_slow(name, listed, wanted, k) for listed, wanted in zip(lists.tolist(), relevant, strict=True)]
    assert found == pytest.approx(expected)
    assert 0 < np.mean(found) < 1


def test_find_hits_never_matches_another_users_items_nor_padding():
    relevant = Ragged.from_rows([[0, 5], [1], [5]])
    lists = np.array([[5, 1, -1], [0, 5, -1], [5, 0, 1]])
    assert find_hits(lists, relevant).tolist() == [[True, False, False], [False, False, False], [True, False, False]]


def test_a_list_is_scored_by_the_full_k_even_when_it_is_short():
    relevant = Ragged.from_rows([[0, 1]])
    hits = find_hits(np.array([[0, -1]]), relevant)
    assert RANKING_METRICS["ndcg"](hits, relevant.lengths, 10) == pytest.approx([1 / (1 + 1 / math.log2(3))])


def test_coverage_counts_catalogue_items_shown_to_anyone():
    in_catalogue = np.array([True, True, True, True, False])
    lists = np.array([[0, 1, 4], [1, 0, 2], [1, -1, -1]])
    assert coverage(lists, in_catalogue, 2) == 2 / 4
    assert coverage(lists, in_catalogue, 3) == 3 / 4  # item 4 is no part of the catalogue


def test_popularity_lift_compares_lists_with_the_users_own_items():
    num_events = np.array([10, 4, 2, 1])
    history = Ragged.from_rows([[2, 2], [1, 3, 3, 3], [0]])
    lists = np.array([[0, 1], [1, -1], [-1, -1]])
    # histories: (2 + 2) / 2 = 2 and (4 + 1 + 1 + 1) / 4 = 1.75; lists: (10 + 4) / 2 = 7 and 4; the third is empty
    assert popularity_lift(lists, history, num_events, 2) == pytest.approx((7 + 4) / (2 + 1.75) - 1)
    assert popularity_lift(lists, history, num_events, 1) == pytest.approx((10 + 4) / (2 + 1.75) - 1)


def test_novelty_is_bits_of_surprise():
    # shares: (6 + 1) / 16, (3 + 1) / 16, (3 + 1) / 16, (0 + 1) / 16
    num_events = np.array([6, 3, 3, 0])
    lists = np.array([[1, 3], [2, -1]])
    assert novelty(lists, num_events, 2) == pytest.approx(((2 + 4) / 2 + 2) / 2)
    assert novelty(np.array([[0, 1, 2, 3]]), np.array([5, 5, 5, 5]), 4) == pytest.approx(math.log2(4))
