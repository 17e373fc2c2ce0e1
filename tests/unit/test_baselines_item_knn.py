"""Item kNN by hand and against dense arithmetic."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.baselines.item_knn import build_score_matrix, rank_by_neighbours
from recspark.contracts.tables import ITEM_GRAPH
from recspark.evaluate.history_weights import HistoryWeights
from recspark.evaluate.ragged import Ragged


def graph(edges):
    """item_graph of {src: [(dst, score), ...]}."""
    rows = [
        {"src_idx": src, "dst_idx": [d for d, _ in out], "score": [s for _, s in out], "count": [1] * len(out)}
        for src, out in edges.items()
    ]
    return pa.Table.from_pylist(rows, schema=ITEM_GRAPH.schema)


def newest_weights(items, weights):
    """Weight by item, each at its newest place."""
    places = {item: place for place, item in reversed(list(enumerate(items[::-1])))}
    return {i: weights.decay**n for i, n in places.items() if weights.num_items is None or n < weights.num_items}


def test_scores_are_sums_over_the_distinct_history():
    scores = build_score_matrix(graph({3: [(2, 0.25), (4, 0.5)], 1: [(2, 0.5)], 0: []}), 6)
    found = rank_by_neighbours(scores, Ragged.from_rows([[1, 3, 1, 1]]), Ragged.from_rows([[1, 3]]), 5)
    # 2 by both: .75; 4 by item 3: .5; the rest 0, the smaller first; the repeats of 1 say nothing new
    assert found.ids.tolist() == [[2, 4, 0, 5, -1]]
    assert found.scores[0, :4].tolist() == [0.75, 0.5, 0.0, 0.0]


def test_edges_point_from_the_history_to_the_candidate():
    scores = build_score_matrix(graph({0: [(1, 1.0)]}), 3)
    assert rank_by_neighbours(scores, Ragged.from_rows([[1]]), Ragged.from_rows([[1]]), 1).scores.tolist() == [[0.0]]
    assert rank_by_neighbours(scores, Ragged.from_rows([[0]]), Ragged.from_rows([[0]]), 1).ids.tolist() == [[1]]


def test_the_last_items_may_weigh_more():
    """Of history 1, 3, 1, 0 item 0 points nowhere: places are 1 (0), 3 (1); item 1 counts once, as the newest."""
    scores = build_score_matrix(graph({3: [(2, 0.25), (4, 0.5)], 1: [(2, 0.5)], 0: []}), 6)
    history, masked = Ragged.from_rows([[1, 3, 1, 0]]), Ragged.from_rows([[0, 1, 3]])
    found = rank_by_neighbours(scores, history, masked, 2, history_weights=HistoryWeights(0.5))
    assert (found.ids.tolist(), found.scores.tolist()) == ([[2, 4]], [[0.625, 0.25]])
    found = rank_by_neighbours(scores, history, masked, 2, history_weights=HistoryWeights(num_items=1))
    assert (found.ids.tolist(), found.scores.tolist()) == ([[2, 4]], [[0.5, 0.0]])


@pytest.mark.parametrize("weights", [HistoryWeights(), HistoryWeights(0.8), HistoryWeights(0.8, 3)])
def test_lists_equal_dense_arithmetic(monkeypatch, weights):
    monkeypatch.setattr("recspark.evaluate.top_k.BLOCK_BYTES", 4 * 30 * 7)  # blocks of seven users
    random = np.random.default_rng(2)
    dense = np.where(random.random((30, 30)) < 0.3, random.integers(1, 64, (30, 30)) / 64, 0).astype(np.float32)
    edges = {i: [(int(j), float(dense[i, j])) for j in np.flatnonzero(dense[i])] for i in random.permutation(30)}
    histories = [random.integers(0, 30, random.integers(1, 8)).tolist() for _ in range(50)]
    history = Ragged.from_rows(histories)
    candidates = random.random(30) < 0.8
    scores = build_score_matrix(graph(edges), 30)
    found = rank_by_neighbours(scores, history, history.distinct(), 10, candidates, weights)
    for row, items in enumerate(histories):
        of_item = newest_weights([i for i in items if dense[i].any()], weights)
        expected = sum((np.float32(of_item[i]) * dense[i] for i in sorted(of_item)), np.zeros(30, np.float32))
        allowed = [i for i in range(30) if candidates[i] and i not in items]
        assert found.ids[row].tolist() == sorted(allowed, key=lambda i: (-expected[i], i))[:10]
        assert found.scores[row] == pytest.approx(expected[found.ids[row]])
