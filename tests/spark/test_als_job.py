"""Stage als on a lake: MLlib's factors of the train part, users as MLlib solves them, lists by `build_ranker`."""

import numpy as np
import pytest
from pyspark.ml.recommendation import ALS

from recspark.baselines.als import read_factors, solve_users
from recspark.baselines.als_job import build_als_factors, to_ratings
from recspark.baselines.registry import BaselineInputs, build_ranker
from recspark.evaluate.ragged import Ragged
from recspark.lake.arrow import find_table
from recspark.lake.spark import read_table
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage

pytestmark = pytest.mark.spark
NUM_USERS, NUM_ITEMS, LATE = 30, 12, 11
"""Item `LATE` is seen after the cut only."""


@pytest.fixture(scope="module")
def built(spark, tmp_path_factory):
    """(run, train items of each user) of a lake whose factors are made."""
    folder = tmp_path_factory.mktemp("als")
    run = plan_tiny(
        folder,
        model={"kind": "als", "embedding_dim": 4},
        baselines={"names": (), "als": {"alpha": 5.0, "num_iterations": 4}},
        evaluate={},
    )
    random, train, rows = np.random.default_rng(3), [], []
    for user in range(NUM_USERS):
        own = random.integers(0, LATE, random.integers(1, 9)).tolist()
        train.append(own)
        items = [*own, LATE, LATE]
        same = {"ts": [0] * len(items), "weight": [1.0] * len(items), "event_type": [0] * len(items)}
        counts = {"num_train": len(own), "num_valid": 1, "num_context": 0}
        rows.append({"user_idx": user, "item_idx": items, **same, **counts})
    events = np.bincount(np.concatenate(train), minlength=NUM_ITEMS)
    items = [
        {"item_idx": i, "item_id": f"i{i}", "num_events": int(events[i]), "active": True} for i in range(NUM_ITEMS)
    ]
    users = [{"user_idx": u, "user_id": f"u{u}", "num_events": len(own)} for u, own in enumerate(train)]
    tables = {"items": items, "users": users, "user_histories": rows, "sessions": []}
    write_stage(run, "sessions", {name: rows_of(name, found) for name, found in tables.items()})
    build_als_factors(spark, run)
    return run, train


def test_only_train_items_have_factors_and_the_record_says_so(built):
    run, train = built
    table = find_table(run.lake, run.stages["als"], "als_factors")
    factors, known = read_factors(table, NUM_ITEMS)
    assert factors.shape == (NUM_ITEMS, 4)
    assert np.flatnonzero(known).tolist() == sorted({item for own in train for item in own})
    assert not known[LATE]
    assert table.record.counts == {"num_ratings": sum(len(set(own)) for own in train), "num_items": int(known.sum())}
    assert set(table.record.inputs) == {"user_histories"}


def test_users_solved_for_are_those_of_mllib(spark, built):
    run, train = built
    histories = find_table(run.lake, run.stages["sessions"], "user_histories")
    ratings = to_ratings(read_table(spark, histories))
    model = ALS(
        rank=4, maxIter=4, regParam=0.1, implicitPrefs=True, alpha=5.0, userCol="user_idx", itemCol="item_idx",
        ratingCol="rating", seed=run.seed,
    ).fit(ratings)  # fmt: skip
    theirs = {row["id"]: row["features"] for row in model.userFactors.collect()}
    factors, _ = read_factors(find_table(run.lake, run.stages["als"], "als_factors"), NUM_ITEMS)
    ours = solve_users(factors, Ragged.from_rows(train), run.config.baselines.als)
    np.testing.assert_allclose(ours, [theirs[user] for user in range(NUM_USERS)], atol=1e-4)


def test_its_lists_are_the_order_of_its_scores(built):
    run, train = built
    tables = {name: find_table(run.lake, run.stages["sessions"], name) for name in ("items", "user_histories")}
    factors_at = find_table(run.lake, run.stages["als"], "als_factors")
    factors, known = read_factors(factors_at, NUM_ITEMS)
    inputs = BaselineInputs(run.config, known.astype(np.int64), tables["user_histories"], als_factors=factors_at)
    history = Ragged.from_rows(train)
    ranked = build_ranker("als", inputs)(history, history, 3)
    scores = solve_users(factors, history, run.config.baselines.als) @ factors.T
    for user, own in enumerate(train):
        open_ = [item for item in np.flatnonzero(known) if item not in own]
        best = sorted(open_, key=lambda item: -scores[user, item])[:3]
        assert [item for item in ranked.ids[user].tolist() if item >= 0] == best
