"""Lists against a full sort, with ties, masks and short rows."""

import numpy as np
import pytest

from recspark.evaluate import top_k as module
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.top_k import NO_ITEM, TopK, keep_unseen, mask_scores, rank_all, top_k


def _sorted(scores, k):
    """ids of each row by (score descending, id ascending), -inf left out, padded with -1."""
    lists = []
    for row in scores:
        order = sorted((i for i in range(len(row)) if row[i] > -np.inf), key=lambda i: (-row[i], i))[:k]
        lists.append(order + [NO_ITEM] * (k - len(order)))
    return lists


@pytest.mark.parametrize("k", [1, 2, 3, 7, 40, 60])
@pytest.mark.parametrize("num_values", [2, 9, 10_000])
def test_top_k_equals_a_full_sort_with_ties_to_the_smaller_id(k, num_values):
    random = np.random.default_rng(k)
    scores = random.integers(0, num_values, (25, 40)).astype(np.float32)
    scores[random.random(scores.shape) < 0.2] = -np.inf
    found = top_k(scores, k)
    assert found.ids.tolist() == _sorted(scores, k)
    for ids, values, row in zip(found.ids, found.scores, scores, strict=True):
        assert values.tolist() == [row[i] if i >= 0 else -np.inf for i in ids]


def test_nan_scores_are_never_listed():
    found = top_k(np.array([[np.nan, 1.0, np.nan, 2.0]], dtype=np.float32), 3)
    assert found.ids.tolist() == [[3, 1, NO_ITEM]]


@pytest.mark.parametrize("width", [1, 3, 16, 40])
def test_blocks_of_columns_give_the_list_of_one_block(width):
    scores = np.random.default_rng(1).integers(0, 5, (10, 40)).astype(np.float32)
    best = TopK(10, 6)
    for start in range(0, 40, width):
        best.push(scores[:, start : start + width], start)
    assert best.ranked().ids.tolist() == _sorted(scores, 6)


def test_mask_scores_hits_only_its_rows_and_columns():
    scores = np.zeros((2, 3), dtype=np.float32)
    mask_scores(scores, Ragged.from_rows([[4, 9], [3, 6]]), first_id=4)
    assert (scores == -np.inf).tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize("block_users", [1, 4, 100])
def test_rank_all_masks_each_user_and_lists_candidates_only(monkeypatch, block_users):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_users * 4 * 30)
    random = np.random.default_rng(3)
    scores = random.integers(0, 6, (9, 30)).astype(np.float32)
    seen = [sorted(random.choice(30, n, replace=False).tolist()) for n in random.integers(0, 29, 9)]
    candidates = random.random(30) < 0.7
    expected = scores.copy()
    expected[:, ~candidates] = -np.inf
    for row, items in enumerate(seen):
        expected[row, items] = -np.inf
    found = rank_all(lambda a, b: scores[a:b].copy(), Ragged.from_rows(seen), 30, 8, candidates)
    assert found.ids.tolist() == _sorted(expected, 8)


def test_keep_unseen_keeps_the_order_and_pads():
    ids = np.array([[4, 2, 7, 1], [3, 0, -1, -1], [5, 6, 8, 9]])
    scores = np.array([[9, 8, 7, 6], [5, 4, -np.inf, -np.inf], [3, 2, 1, 0]], dtype=np.float32)
    found = keep_unseen(ids, scores, Ragged.from_rows([[2, 4], [3], []]), 3)
    assert found.ids.tolist() == [[7, 1, -1], [0, -1, -1], [5, 6, 8]]
    assert found.scores.tolist() == [[7, 6, -np.inf], [4, -np.inf, -np.inf], [3, 2, 1]]
    assert found.lengths.tolist() == [2, 1, 3]


def test_keep_unseen_pads_to_k_when_less_was_fetched():
    found = keep_unseen(np.array([[1]]), np.array([[2.0]], dtype=np.float32), Ragged.empty(1), 3)
    assert found.ids.tolist() == [[1, -1, -1]]
