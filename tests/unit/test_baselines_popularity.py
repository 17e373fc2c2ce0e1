"""Popularity against a sort for each user."""

import numpy as np
import pytest

from recspark.baselines import popularity
from recspark.baselines.popularity import rank_by_popularity
from recspark.evaluate.ragged import Ragged


def test_lists_are_the_most_popular_unseen_items():
    num_events = np.array([3, 9, 3, 0, 7])
    found = rank_by_popularity(num_events, Ragged.from_rows([[], [1, 2], [0, 1, 2, 4]]), 3)
    assert found.ids.tolist() == [[1, 4, 0], [4, 0, -1], [-1, -1, -1]]  # item 3 was never seen in training
    assert found.scores[0].tolist() == [9, 7, 3]


@pytest.mark.parametrize("cells", [1, 100, 1 << 22])
def test_lists_equal_a_sort_for_each_user(monkeypatch, cells):
    monkeypatch.setattr(popularity, "_CELLS", cells)
    random = np.random.default_rng(4)
    num_events = random.integers(0, 6, 40)
    seen = [sorted(random.choice(40, n, replace=False).tolist()) for n in random.integers(0, 30, 25)]
    found = rank_by_popularity(num_events, Ragged.from_rows(seen), 7)
    for row, items in enumerate(seen):
        unseen = sorted((i for i in range(40) if num_events[i] and i not in items), key=lambda i: (-num_events[i], i))
        assert [i for i in found.ids[row].tolist() if i >= 0] == unseen[:7]


def test_a_catalogue_without_train_events_gives_empty_lists():
    assert rank_by_popularity(np.zeros(3, dtype=np.int64), Ragged.empty(2), 2).ids.tolist() == [[-1, -1]] * 2
