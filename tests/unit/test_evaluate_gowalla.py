"""The protocol against figures known beforehand, on Gowalla (LightGCN split): full ranking, train items masked."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from recspark.baselines.histories import build_user_matrix
from recspark.baselines.item_knn import rank_by_neighbours
from recspark.baselines.popularity import rank_by_popularity
from recspark.baselines.rp3beta import build_rp3beta
from recspark.config.baselines import Rp3BetaConfig
from recspark.evaluate.histories import CaseSpec, build_cases
from recspark.evaluate.measure import measure, overall
from recspark.evaluate.ranking import RANKING_METRICS, find_hits

NUM_USERS = 29_858


def read_user_histories(folder):
    """(user_histories columns that count, train events of each item) from the adjacency matrix and test.txt."""
    train = sp.load_npz(folder / "s_adj_mat.npz").tocsr()[:NUM_USERS, NUM_USERS:].tocsr()
    test = {}
    for line in (folder / "test.txt").read_text().splitlines():
        user, *items = map(int, line.split())
        test[user] = items
    rows = [[*row, *test.get(u, [])] for u, row in enumerate(np.split(train.indices, train.indptr[1:-1]))]
    num_train = np.diff(train.indptr)
    ts = pa.array([[0] * len(row) for row in rows], pa.list_(pa.int64()))
    columns = {"user_idx": np.arange(NUM_USERS), "item_idx": pa.array(rows, pa.list_(pa.int32())), "ts": ts}
    counts = {"num_train": num_train, "num_valid": num_train * 0, "num_context": num_train * 0}
    return pa.table(columns | counts), np.bincount(train.indices, minlength=train.shape[1])


@pytest.fixture(scope="module")
def gowalla(shared_data):
    """(cases, train events of each item), every user being scored."""
    user_histories, num_events = read_user_histories(shared_data / "gowalla-lightgcn")
    cases = build_cases(user_histories, num_events, CaseSpec())
    assert (len(cases), cases.counts["relevant_items"]) == (NUM_USERS, 217_242)
    return cases, num_events


def test_popularity_is_the_published_one(gowalla):
    cases, num_events = gowalla
    found = overall(measure(rank_by_popularity(num_events, cases.masked, 20).ids, cases, num_events, (20,)))
    assert found["recall@20"] == pytest.approx(0.0416, abs=5e-4)
    assert found["ndcg@20"] == pytest.approx(0.0317, abs=5e-4)


def test_rp3beta_by_its_defaults_is_what_the_trials_gave(gowalla):
    cases, num_events = gowalla
    users = np.random.default_rng(1).choice(NUM_USERS, 4000, replace=False)  # all of them take a minute
    scores = build_rp3beta(build_user_matrix(cases.history, len(num_events)), Rp3BetaConfig())
    history, relevant = cases.history.take(users), cases.relevant.take(users)
    ids = rank_by_neighbours(scores, history, history.distinct(), 20, num_events > 0).ids
    recall = RANKING_METRICS["recall"](find_hits(ids, relevant), relevant.lengths, 20).mean()
    assert recall == pytest.approx(0.1848, abs=0.008)  # of all users; the sample's own error is .004
