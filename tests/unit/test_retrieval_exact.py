"""Exact search against scoring every pair one by one."""

import numpy as np
import pytest

from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import ItemVectors
from recspark.retrieval import exact
from recspark.retrieval.exact import search_exact
from tests.helpers.tiny_lake import random_vectors


def make_vectors(metric="cosine", num_items=60, dim=5, with_bias=True, gaps=True):
    idx = np.arange(num_items, dtype=np.int32) * (3 if gaps else 1) + gaps
    bias = np.random.default_rng(9).normal(size=num_items) if with_bias else np.zeros(num_items)
    vectors = random_vectors(1, num_items, dim)
    return ItemVectors("m", metric, idx, vectors, vectors, bias.astype(np.float32))


def score(vectors, query, row):
    product = float(np.dot(query.astype(float), vectors.vectors[row].astype(float)))
    if vectors.metric == "cosine":
        product /= np.linalg.norm(query) * np.linalg.norm(vectors.vectors[row])
    elif vectors.metric == "l2":
        product = -float(np.square(query.astype(float) - vectors.vectors[row]).sum())
    return product + float(vectors.bias[row])


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_search_equals_scoring_every_pair(monkeypatch, metric, with_bias, block):
    monkeypatch.setattr(exact, "BLOCK_QUERIES", block)
    monkeypatch.setattr(exact, "BLOCK_ITEMS", block)
    vectors = make_vectors(metric, with_bias=with_bias)
    queries = random_vectors(2, 12, 5)
    masked = [sorted(np.random.default_rng(q).choice(200, 40, replace=False).tolist()) for q in range(12)]
    found = search_exact(vectors, queries, 10, Ragged.from_rows(masked))
    for q, query in enumerate(queries):
        scores = {int(i): score(vectors, query, row) for row, i in enumerate(vectors.item_idx) if i not in masked[q]}
        assert found.ids[q].tolist() == sorted(scores, key=lambda i: -scores[i])[:10]
        assert found.scores[q] == pytest.approx([scores[i] for i in found.ids[q].tolist()], rel=1e-6, abs=1e-5)


def test_metric_and_bias_change_the_order():
    vectors = np.array([[1, 0], [4, 4], [0, 1]], dtype=np.float32)
    query = np.array([[1, 0.1]], dtype=np.float32)

    def order(metric, bias):
        idx = np.arange(3, dtype=np.int32)
        items = ItemVectors("m", metric, idx, vectors, vectors, np.array(bias, dtype=np.float32))
        return search_exact(items, query, 3).ids[0].tolist()

    assert order("cosine", [0, 0, 0]) == [0, 1, 2]
    assert order("ip", [0, 0, 0]) == [1, 0, 2]
    assert order("cosine", [0, 0, 5]) == [2, 0, 1]


def test_equal_scores_go_to_the_smaller_item():
    same = np.ones((5, 4), dtype=np.float32)
    items = ItemVectors("m", "cosine", np.array([2, 3, 5, 8, 9], np.int32), same, same, np.zeros(5, np.float32))
    assert search_exact(items, same[:1], 3).ids.tolist() == [[2, 3, 5]]
    assert search_exact(items, same[:1], 3, Ragged.from_rows([[2, 4, 5]])).ids.tolist() == [[3, 8, 9]]


def test_zero_query_scores_the_bias_and_short_lists_are_padded():
    items = make_vectors("cosine", num_items=3, gaps=False)
    found = search_exact(items, np.zeros((1, 5), dtype=np.float32), 5)
    assert found.ids[0, :3].tolist() == np.argsort(-items.bias).tolist()
    assert found.ids[0, 3:].tolist() == [-1, -1]
