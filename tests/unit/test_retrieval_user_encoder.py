"""One protocol for users: one vector, several of which the best counts, none."""

from dataclasses import dataclass

import numpy as np
import pytest

from recspark.contracts.commits import CommitRecord
from recspark.evaluate.lists import NO_ITEM
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import unit_rows
from recspark.lake.arrow import TableAt
from recspark.retrieval.exact import search_exact
from recspark.retrieval.recommend import rank_by_bias, recommend
from recspark.retrieval.user_encoder import MeanEncoder, open_user_encoder
from recspark.retrieval.user_vectors import build_user_vectors
from tests.helpers.tiny_lake import random_vectors

NUM_ITEMS, DIM = 40, 5


def make_vectors(metric="cosine", bias=0.3):
    drawn = bias * np.random.default_rng(0).normal(size=NUM_ITEMS)
    vectors = random_vectors(1, NUM_ITEMS, DIM)
    return ItemVectors("m", metric, np.arange(NUM_ITEMS) * 2, vectors, vectors, drawn.astype(np.float32))


def histories(num_users=12):
    random = np.random.default_rng(5)
    return Ragged.from_rows([random.integers(0, 2 * NUM_ITEMS, n).tolist() for n in random.integers(1, 9, num_users)])


@dataclass
class Interests:
    """H vectors a user, whatever he did."""

    vectors_UHD: np.ndarray

    def encode(self, history, user_idx=None, context=None):
        return self.vectors_UHD[: len(history)]


class Index:
    """Finds everything among what is allowed."""

    def __init__(self, vectors):
        self.vectors = vectors

    def search(self, queries, k, allowed=None):
        vectors = self.vectors
        if allowed is not None:
            vectors = vectors.take(np.flatnonzero(np.isin(vectors.item_idx, allowed)))
        found = search_exact(vectors, queries, k)
        return found.ids.astype(np.int64), found.scores


def best_of(vectors, users_UHD, masked, k, allowed=None):
    """The oracle: every item's best score over a user's vectors that are not zero, sorted in full."""
    lists = []
    for row, interests in enumerate(users_UHD):
        queries = unit_rows(interests) if vectors.metric == "cosine" else interests
        queries = queries[interests.any(axis=1)] if interests.any() else queries[:1]
        scores = (queries.astype(np.float64) @ vectors.candidates.T.astype(np.float64)).max(axis=0) + vectors.bias
        out = set(masked.row(row).tolist())
        order = sorted(range(len(vectors)), key=lambda i: (-scores[i], vectors.item_idx[i]))
        found = [i for i in order if vectors.item_idx[i] not in out]
        found = [i for i in found if allowed is None or vectors.item_idx[i] in allowed][:k]
        lists.append([(int(vectors.item_idx[i]), scores[i]) for i in found])
    return lists


def listed(ranked):
    return [
        [(idx, score) for idx, score in zip(ids, scores, strict=True) if idx != NO_ITEM]
        for ids, scores in zip(ranked.ids.tolist(), ranked.scores.tolist(), strict=True)
    ]


def assert_same(found, wanted):
    assert [[idx for idx, _ in row] for row in found] == [[idx for idx, _ in row] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert [s for _, s in row] == pytest.approx([s for _, s in other], abs=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("through_index", [False, True])
@pytest.mark.parametrize("num_vectors", [1, 2, 4])
@pytest.mark.parametrize("allowed", [None, [0, 8, 10, 12, 30, 44, 46]])
def test_of_several_vectors_the_best_counts(metric, through_index, num_vectors, allowed):
    vectors, history = make_vectors(metric), histories()
    random = np.random.default_rng(3)
    users = random.normal(size=(len(history), num_vectors, DIM)).astype(np.float32)
    users[2, 1:] = 0  # a user with one interest only
    users[3] = 0  # and one with none
    masked = history.distinct()
    index = Index(vectors) if through_index else None
    found = recommend(
        vectors, history, masked, 6, index, Interests(users), None, None if allowed is None else np.array(allowed)
    )
    assert_same(listed(found), best_of(vectors, users, masked, 6, allowed))


def test_equal_interests_are_as_one():
    vectors, history = make_vectors(), histories()
    one = build_user_vectors(vectors, history)
    users = np.repeat(one[:, None, :], 3, axis=1)
    plain = recommend(vectors, history, history.distinct(), 5)
    several = recommend(vectors, history, history.distinct(), 5, None, Interests(users))
    assert several.ids.tolist() == plain.ids.tolist()
    assert several.scores == pytest.approx(plain.scores, abs=1e-6)


def test_no_direction_means_the_highest_bias_as_exact_search_has_it():
    vectors, masked = make_vectors(bias=1.0), Ragged.from_rows([[0, 2], [], list(range(0, 80, 2))])
    exact = search_exact(vectors, np.zeros((3, DIM), np.float32), 5, masked)
    found = rank_by_bias(vectors, masked, 5)
    assert found.ids.tolist() == exact.ids.tolist()
    assert found.scores == pytest.approx(exact.scores)
    assert rank_by_bias(vectors, masked, 5, np.array([7])).ids.tolist() == [[NO_ITEM] * 5] * 3
    flat = make_vectors(bias=0.0)
    assert rank_by_bias(flat, Ragged.from_rows([[0]]), 3).ids.tolist() == [[2, 4, 6]]


def test_the_mean_is_what_models_without_a_word_of_it_use():
    vectors, history = make_vectors(), histories()
    record = CommitRecord("train", "k", "r", True, "0", facts={})
    table = TableAt("lake", "item_embeddings", 3, record)
    encoder = open_user_encoder(vectors, table)
    assert isinstance(encoder, MeanEncoder)
    assert encoder.encode(history).tolist() == build_user_vectors(vectors, history).tolist()


def test_a_user_is_the_same_whoever_stands_beside_him():
    vectors, history = make_vectors(), histories(50)
    together = build_user_vectors(vectors, history)
    for row in range(len(history)):
        assert build_user_vectors(vectors, history.block(row, row + 1))[0].tolist() == together[row].tolist()
