"""Lists ranked once more: the same items in the head's order, and what the head knows nothing of."""

import numpy as np
import pytest

from recspark.contracts.commits import CommitRecord
from recspark.errors import LakeError
from recspark.evaluate.lists import NO_ITEM
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.ranking_head import RankingHeadSpec, StoredRankingHead
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import TableAt
from recspark.retrieval.exact import search_exact
from recspark.retrieval.recommend import recommend
from recspark.retrieval.rerank import Reranker, open_reranker
from recspark.retrieval.user_vectors import build_user_vectors
from tests.helpers.tiny_lake import random_vectors

NUM_ITEMS, DIM = 50, 4


def make_vectors(metric="cosine"):
    bias = np.random.default_rng(0).normal(size=NUM_ITEMS).astype(np.float32) / 3
    idx = np.arange(NUM_ITEMS, dtype=np.int64) * 2
    return ItemVectors("m", metric, idx, random_vectors(1, NUM_ITEMS, DIM), random_vectors(2, NUM_ITEMS, DIM), bias)


def make_head(candidates=12, strength=1.0):
    """A head of random numbers; of strength 0 it adds nothing to the retrieval's scores."""
    random = np.random.default_rng(3)
    shapes = {"attention.maps.0.bias": (3,), "attention.layers.0.weight": (1, 3), "attention.layers.0.bias": (1,)}
    shapes |= {f"attention.maps.{i}.weight": (3, DIM) for i in range(3)}
    shapes |= {f"mlp.maps.{i}.weight": (5, DIM) for i in range(4)}
    shapes |= {"mlp.maps.0.bias": (5,), "mlp.layers.0.weight": (1, 5), "places": (6, 3)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {"attention.slopes": np.float32([0.25]), "mlp.slopes": np.float32([0.25]), "log_scale": np.float32(2.3)}
    arrays["mlp.layers.0.weight"] *= np.float32(strength)
    return StoredRankingHead(RankingHeadSpec(candidates, 6, "raw", 2.0), arrays)


def histories(num_users=30):
    random = np.random.default_rng(5)
    return Ragged.from_rows([random.integers(0, 100, n).tolist() for n in random.integers(1, 12, num_users)])


class RoughIndex:
    """Finds what exact search finds, with scores that are a little off."""

    def __init__(self, vectors):
        self.vectors = vectors

    def search(self, queries, k):
        found = search_exact(self.vectors, queries, k)
        return found.ids.astype(np.int64), found.scores + np.float32(0.001)


def has_a_vector(vectors, history):
    return build_user_vectors(vectors, history).any(axis=1)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("through_index", [False, True])
@pytest.mark.parametrize("k", [3, 12, 20])
def test_a_list_is_what_was_retrieved_in_the_head_s_order(metric, through_index, k):
    vectors, history = make_vectors(metric), histories()
    masked, reranker = history.distinct(), Reranker(vectors, make_head())
    depth = max(k, 12)
    retrieved = recommend(vectors, history, masked, depth)
    index = RoughIndex(vectors) if through_index else None
    found = recommend(vectors, history, masked, k, index, reranker=reranker)
    users = build_user_vectors(vectors, history)
    scores = reranker.score(users, history, vectors.rows_of(retrieved.ids))
    told = has_a_vector(vectors, history)
    assert told.sum() > 20
    changed = 0
    for user in np.flatnonzero(told):
        by_head = dict(zip(retrieved.ids[user].tolist(), scores[user].tolist(), strict=True))
        expected = sorted(by_head, key=lambda i: (-by_head[i], i))[:k]
        assert found.ids[user].tolist() == expected
        assert found.scores[user] == pytest.approx([by_head[i] for i in expected], rel=1e-5, abs=1e-5)
        assert not set(expected) & set(masked.row(user).tolist())
        changed += expected != retrieved.ids[user, :k].tolist()
    assert changed > 10


def test_all_of_a_list_is_a_permutation_of_what_was_retrieved():
    vectors, history = make_vectors(), histories()
    found = recommend(vectors, history, history.distinct(), 12, reranker=Reranker(vectors, make_head()))
    retrieved = recommend(vectors, history, history.distinct(), 12)
    assert np.sort(found.ids, axis=1).tolist() == np.sort(retrieved.ids, axis=1).tolist()
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_a_head_that_adds_nothing_keeps_the_order():
    vectors, history = make_vectors(), histories()
    found = recommend(vectors, history, history.distinct(), 7, reranker=Reranker(vectors, make_head(strength=0)))
    retrieved = recommend(vectors, history, history.distinct(), 7)
    assert found.ids.tolist() == retrieved.ids.tolist()
    told = has_a_vector(vectors, history)
    np.testing.assert_allclose(found.scores[told], np.exp(2.3) * retrieved.scores[told], rtol=1e-4, atol=1e-5)


def test_equal_scores_go_to_the_smaller_item():
    vectors = make_vectors()
    alike = np.tile(vectors.vectors[:1], (NUM_ITEMS, 1))
    vectors = ItemVectors("m", "cosine", vectors.item_idx, alike, alike, np.zeros(NUM_ITEMS, np.float32))
    history = Ragged.from_rows([[0, 4]])
    found = recommend(vectors, history, history, 5, reranker=Reranker(vectors, make_head()))
    assert found.ids.tolist() == [[2, 6, 8, 10, 12]]


def test_a_user_without_a_vector_keeps_the_highest_biases():
    vectors = make_vectors()
    history = Ragged.from_rows([[1, 3], []])  # odd items have no vector
    found = recommend(vectors, history, history.distinct(), 4, reranker=Reranker(vectors, make_head()))
    expected = (np.argsort(-vectors.bias, kind="stable")[:4] * 2).tolist()
    assert found.ids.tolist() == [expected, expected]


def test_an_item_that_only_the_index_knows_keeps_its_retrieval_score():
    vectors, history = make_vectors(), Ragged.from_rows([[0, 2]])

    class Wider(RoughIndex):
        def search(self, queries, k):
            ids, scores = super().search(queries, k)
            ids[:, 0], scores[:, 0] = 1001, 0.5  # as an index filled in by neighbours has it
            return ids, scores

    head = make_head()
    found = recommend(vectors, history, Ragged.empty(1), 12, Wider(vectors), reranker=Reranker(vectors, head))
    place = found.ids[0].tolist().index(1001)
    assert found.scores[0, place] == pytest.approx(float(head.scale) * 0.5)


def test_short_lists_stay_short():
    vectors, history = make_vectors(), Ragged.from_rows([[0, 2]])
    allowed = np.array([4, 8, 10])
    found = recommend(vectors, history, history, 5, allowed=allowed, reranker=Reranker(vectors, make_head()))
    assert sorted(found.ids[0, :3].tolist()) == allowed.tolist()
    assert found.ids[0, 3:].tolist() == [NO_ITEM] * 2
    assert found.scores[0, 3:].tolist() == [-np.inf] * 2


def test_only_the_last_known_items_are_looked_at():
    vectors, reranker = make_vectors(), Reranker(make_vectors(), make_head())
    users, rows = random_vectors(7, 2, DIM), np.tile(np.arange(5), (2, 1))
    long = Ragged.from_rows([[40, 42, 44, 46, 0, 2, 1, 4, 6, 8, 3, 10]] * 2)
    short = Ragged.from_rows([[0, 2, 4, 6, 8, 10]] * 2)
    np.testing.assert_array_equal(reranker.score(users, long, rows), reranker.score(users, short, rows))
    assert vectors.rows_of(long.values).min() < 0


def test_models_without_a_head_have_none_and_a_lost_one_is_told(tmp_path):
    plain = TableAt(str(tmp_path), "item_embeddings", 3, CommitRecord("train", "k", "r", True, "0", facts={}))
    assert open_reranker(make_vectors(), plain) is None
    record = CommitRecord("train", "k", "r", True, "0", facts={"ranking_head": {}})
    with pytest.raises(LakeError, match=r"models/m: no ranking_head\.npz, which this model's lists are ranked by; run"):
        open_reranker(make_vectors(), TableAt(str(tmp_path), "item_embeddings", 3, record))
