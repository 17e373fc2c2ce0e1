"""User vectors by hand; lists through an index against exact ones."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from recspark.evaluate.history_weights import HistoryWeights
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import unit_rows
from recspark.retrieval import recommend as module
from recspark.retrieval.exact import search_exact
from recspark.retrieval.recommend import recommend
from recspark.retrieval.user_vectors import build_user_vectors
from tests.helpers.tiny_lake import random_vectors


def make_vectors(num_items=50, dim=4, metric="cosine"):
    bias = np.random.default_rng(0).normal(size=num_items).astype(np.float32) / 3
    idx = np.arange(num_items, dtype=np.int32) * 2
    return ItemVectors("m", metric, idx, random_vectors(1, num_items, dim), random_vectors(2, num_items, dim), bias)


class ExactIndex:
    """An index that finds everything; notes how much it was asked for."""

    def __init__(self, vectors, num_missing=0):
        self.vectors, self.num_missing, self.asked = vectors, num_missing, []

    def search(self, queries, k):
        self.asked.append((len(queries), k))
        found = search_exact(self.vectors, queries, k)
        ids = found.ids.astype(np.int64)
        if self.num_missing:
            ids[:, -self.num_missing :] = -1
        return ids, found.scores


def test_user_vector_is_the_mean_of_unit_query_vectors():
    candidates = np.array([[9, 9], [9, 9], [9, 9]], dtype=np.float32)
    queries = np.array([[3, 4], [0, 2], [5, 0]], dtype=np.float32)
    vectors = ItemVectors("m", "ip", np.array([0, 1, 4], np.int32), candidates, queries, np.zeros(3, np.float32))
    found = build_user_vectors(vectors, Ragged.from_rows([[0, 1], [4, 4, 1, 3], [2, 3], []]))
    # item 4 counts twice; items 2 and 3 have no vector and do not count at all
    expected = [[(0.6 + 0) / 2, (0.8 + 1) / 2], [2 / 3, 1 / 3], [0, 0], [0, 0]]
    assert found == pytest.approx(np.array(expected), abs=1e-6)


def weighted(vectors, weights):
    return replace(vectors, history_weights=weights)


@pytest.mark.parametrize("weights", [HistoryWeights(0.6), HistoryWeights(0.6, 3), HistoryWeights(1.0, 3)])
def test_user_vector_weighs_the_last_known_items_more(weights):
    vectors, history = make_vectors(), histories()
    found = build_user_vectors(weighted(vectors, weights), history)
    for row in range(len(history)):
        known = [i // 2 for i in history.row(row)[::-1] if i % 2 == 0][: weights.num_items]  # the newest first
        unit = [vectors.queries[r] / np.linalg.norm(vectors.queries[r]) for r in known]
        places = weights.decay ** np.arange(len(known))
        expected = np.average(unit, axis=0, weights=places) if known else np.zeros(4)
        assert found[row] == pytest.approx(expected, abs=1e-6)


def test_all_alike_is_the_plain_mean_to_the_bit():
    vectors, history = make_vectors(), histories()
    known = history.where(history.values % 2 == 0)
    shares = np.repeat(1.0 / np.maximum(known.lengths, 1), known.lengths).astype(np.float32)
    average = sp.csr_array((shares, known.values // 2, known.offsets), shape=(len(known), len(vectors)))
    assert np.array_equal(build_user_vectors(vectors, history), average @ vectors.unit_queries)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("through_index", [False, True])
def test_one_item_is_the_query_by_that_item_alone(metric, through_index):
    """Lists of `history_items: 1`, and of a decay near 0, are those of histories cut to their last known item."""
    vectors, history = make_vectors(metric=metric), histories()
    known = history.where(history.values % 2 == 0)
    last = Ragged.from_rows([known.row(r)[-1:].tolist() for r in range(len(known))])
    index = ExactIndex(vectors) if through_index else None
    expected = recommend(vectors, last, history.distinct(), 6)
    for weights in (HistoryWeights(num_items=1), HistoryWeights(1e-12)):
        found = recommend(weighted(vectors, weights), history, history.distinct(), 6, index)
        assert np.array_equal(found.ids, expected.ids)
        assert found.scores == pytest.approx(expected.scores, abs=1e-6)


def test_unit_rows_keep_zero():
    assert unit_rows(np.array([[0, 0], [3, 4]], dtype=np.float32)).tolist() == [[0, 0], pytest.approx([0.6, 0.8])]


def histories(num_users=40, most=25):
    random = np.random.default_rng(5)
    return Ragged.from_rows([random.integers(0, 100, n).tolist() for n in random.integers(1, most, num_users)])


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("cells", [1, 200, 1 << 21])
def test_an_index_that_finds_all_gives_the_exact_lists(monkeypatch, metric, cells):
    monkeypatch.setattr(module, "BLOCK_CELLS", cells)
    vectors, history = make_vectors(metric=metric), histories()
    masked, index = history.distinct(), ExactIndex(make_vectors(metric=metric))
    exact, through_index = recommend(vectors, history, masked, 6), recommend(vectors, history, masked, 6, index)
    assert np.array_equal(exact.ids, through_index.ids)
    assert exact.scores == pytest.approx(through_index.scores, abs=1e-6)
    assert not np.isin(exact.ids, -1).any()
    assert all(k <= 6 + masked.lengths.max() for _, k in index.asked)


def test_long_histories_do_not_make_all_searches_long(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_CELLS", 60)
    vectors = make_vectors()
    history = Ragged.from_rows([[0], [2] * 3, list(range(0, 60, 2)), [4], [6]])
    index = ExactIndex(vectors)
    recommend(vectors, history, history.distinct(), 5, index)
    assert index.asked == [(1, 35), (4, 6)]


def test_lists_that_the_index_cuts_short_are_padded():
    vectors = make_vectors(num_items=4)
    history = Ragged.from_rows([[0]])
    found = recommend(vectors, history, history.distinct(), 3, ExactIndex(vectors, num_missing=2))
    assert found.lengths.tolist() == [len(set(found.ids[0].tolist()) - {-1})]
    assert found.lengths[0] <= 2
    assert found.ids[0, 2] == -1


def test_users_without_a_known_item_get_the_highest_bias_through_the_index_too():
    vectors = make_vectors()
    history = Ragged.from_rows([[1, 3], [0]])  # odd items have no vector
    found = recommend(vectors, history, history.distinct(), 4, ExactIndex(vectors, num_missing=3))
    assert found.ids[0].tolist() == (np.argsort(-vectors.bias)[:4] * 2).tolist()


@pytest.mark.parametrize("weights", [HistoryWeights(), HistoryWeights(0.7), HistoryWeights(0.7, 4)])
def test_user_vectors_equal_the_trainers(weights):
    """Two rooms, one formula: `user_embeddings` of a model are what retrieval builds from the same train history."""
    readout = pytest.importorskip("recspark.training.readout")
    vectors, history = make_vectors(), histories()
    is_trained = np.zeros(100, dtype=bool)
    is_trained[vectors.item_idx] = True
    query = np.zeros((100, 4), dtype=np.float32)
    query[is_trained] = vectors.queries
    trained = readout.Readout(np.zeros_like(query), query, np.zeros(100, np.float32), is_trained, weights)
    expected, has_vector = readout.mean_user_vectors(history.values, history.offsets, history.lengths, trained)
    found = build_user_vectors(weighted(vectors, weights), history)
    assert found == pytest.approx(expected, abs=1e-6)
    assert has_vector.tolist() == found.any(axis=1).tolist()


def test_of_several_interests_an_item_has_the_score_of_the_nearest():
    """Against all scores, the largest an item, ranked: exact whatever lists the interests give."""
    random, num_items, k = np.random.default_rng(5), 40, 6
    rows = random_vectors(3, num_items, 4)
    vectors = ItemVectors("m", "cosine", np.arange(num_items) * 2, rows, rows, random.normal(0, 0.1, num_items))
    queries = random.normal(size=(7, 3, 4)).astype(np.float32)

    class Interests:
        def encode(self, history, user_idx=None, context=None):
            return queries

    masked = Ragged.from_rows([[int(i) * 2 for i in random.integers(0, num_items, 3)] for _ in range(7)])
    found = recommend(vectors, Ragged.empty(7), masked, k, encoder=Interests())
    scores = (unit_rows(queries.reshape(-1, 4)).reshape(7, 3, 4) @ unit_rows(rows).T).max(axis=1) + vectors.bias
    for user in range(7):
        scores[user, masked.row(user) // 2] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k] * 2
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :k], rtol=1e-5)
