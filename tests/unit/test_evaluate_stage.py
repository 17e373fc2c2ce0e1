"""The whole stage on a tiny lake: lists, metrics, counts and slices by hand."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from recspark.config import load_config
from recspark.contracts import columns as c
from recspark.errors import ConfigError, LakeError
from recspark.faults import FAULT_VARIABLE
from recspark.lake.arrow import find_done, find_table, open_table, read_table
from recspark.pipeline import evaluate_stage, rankers
from recspark.pipeline.evaluate_stage import evaluate, model_id_of
from tests.helpers.tiny_lake import plan_tiny, write_embeddings, write_graph, write_sessions

NUM_EVENTS = [9, 8, 7, 6, 0]
USERS = [
    ([0], [], [], [1, 4]),  # warm; item 4 is unknown to every model
    ([], [], [3], [2]),  # cold
    ([1], [], [], []),  # not scored
]
# Cosine neighbours: of item 0 the order is 3, 2, 1; of item 3 it is 0, 2, 1.
VECTORS = {0: [1.0, 0.0], 1: [-1.0, 0.2], 2: [0.5, 0.5], 3: [0.9, 0.1]}
EDGES = {0: [(1, 0.5), (2, 0.25)], 3: [(2, 1.0)]}


def fill(run):
    write_sessions(run, NUM_EVENTS, USERS)
    write_embeddings(run, VECTORS)
    write_graph(run, "item_knn_graph", EDGES)


@pytest.fixture
def run(tmp_path):
    run = plan_tiny(tmp_path)
    fill(run)
    evaluate(run)
    return run


def lists_of(run, label):
    table = find_table(run.lake, run.stages["evaluate"], "recommendations")
    rows = read_table(table, filters=[(c.PURPOSE, "=", "test"), (c.MODEL_ID, "=", model_id_of(run, label))])
    return {row[c.USER_ID]: row[c.ITEM_IDS] for row in rows.to_pylist()}


def value_of(run, label, name, k, segment="all"):
    table = find_table(run.lake, run.stages["evaluate"], "metrics")
    rows = read_table(table, filters=[(c.STAGE_KEY, "=", run.stages["evaluate"].key)]).to_pylist()
    wanted = {c.MODEL_ID: model_id_of(run, label), c.NAME: name, c.K: k, c.SEGMENT: segment}
    (found,) = [row for row in rows if row | wanted == row]
    return found[c.VALUE], found[c.NUM_USERS]


def test_every_models_lists_are_written(run):
    assert lists_of(run, "skip_gram") == {"u0": ["i3", "i2", "i1"], "u1": ["i0", "i2", "i1"]}
    assert lists_of(run, "popularity") == {"u0": ["i1", "i2", "i3"], "u1": ["i0", "i1", "i2"]}
    assert lists_of(run, "item_knn") == {"u0": ["i1", "i2", "i3"], "u1": ["i2", "i0", "i1"]}


def test_metrics_are_those_of_the_lists(run):
    # u0 finds item 1 at place 3 of 3 and can't find item 4; u1 finds item 2 at place 2
    assert value_of(run, "skip_gram", "recall", 3) == (pytest.approx((1 / 2 + 1) / 2), 2)
    assert value_of(run, "skip_gram", "recall", 2) == (pytest.approx((0 + 1) / 2), 2)
    assert value_of(run, "skip_gram", "mrr", 3) == (pytest.approx((1 / 3 + 1 / 2) / 2), 2)
    assert value_of(run, "skip_gram", "recall", 3, "warm") == (pytest.approx(1 / 2), 1)
    assert value_of(run, "skip_gram", "recall", 3, "cold") == (pytest.approx(1), 1)
    ideal = 1 + 1 / np.log2(3)
    assert value_of(run, "skip_gram", "ndcg", 3)[0] == pytest.approx((0.5 / ideal + 1 / np.log2(3)) / 2)
    assert value_of(run, "item_knn", "hr", 1) == (1.0, 2)
    assert value_of(run, "popularity", "hr", 1) == (0.5, 2)
    assert value_of(run, "popularity", "coverage", 1) == (2 / 4, 2)  # items 0 and 1 of the four known ones


def test_the_record_holds_counts_versions_and_the_table_of_metrics(run):
    _, record = find_done(run.lake, run.stages["evaluate"])
    assert record.counts["users"] == 2
    assert record.counts["users_cold"] == 1
    assert record.counts["relevant_items"] == 3
    assert record.counts["relevant_items_unknown"] == 1
    assert record.counts["short_lists"] == {"skip_gram": 0, "item_knn": 0, "popularity": 0}
    assert record.inputs == {"user_histories": 0, "items": 0, "users": 0, "item_embeddings": 0, "item_graph": 0}
    assert record.facts["models"] == ["skip_gram", "item_knn", "popularity"]
    assert record.facts["metrics"]["skip_gram"]["recall@3"] == pytest.approx(0.75)
    assert record.facts["model_ids"]["skip_gram"] == run.stages["train"].id
    assert record.facts["history"] == "train+valid"


def test_two_evaluations_share_a_lake(run, tmp_path):
    other = plan_tiny(tmp_path, evaluate={"ks": [1], "mask_seen": False})
    assert other.stages["train"].key == run.stages["train"].key
    evaluate(other)
    assert lists_of(other, "popularity") == {"u0": ["i0"], "u1": ["i0"]}
    assert lists_of(run, "popularity")["u0"] == ["i1", "i2", "i3"]
    assert lists_of(run, "skip_gram")["u0"] == ["i3", "i2", "i1"]
    assert value_of(run, "popularity", "hr", 1) == (0.5, 2)
    assert value_of(other, "popularity", "hr", 1) == (0.0, 2)
    newest = open_table(run.lake, "recommendations").to_pyarrow_table()
    both = {model_id_of(r, label) for r in (run, other) for label in ("popularity", "item_knn", "skip_gram")}
    assert set(newest[c.MODEL_ID].to_pylist()) == both


def test_running_again_replaces_its_own_rows_only(run):
    before = [open_table(run.lake, name).to_pyarrow_table().num_rows for name in ("recommendations", "metrics")]
    evaluate(run)
    assert [open_table(run.lake, n).to_pyarrow_table().num_rows for n in ("recommendations", "metrics")] == before


def evaluate_and_die(folder):
    """In a process of its own: the stage, killed between its two commits."""
    os.environ[FAULT_VARIABLE] = "evaluate.between_tables"
    evaluate(plan_tiny(folder))


def test_a_kill_between_the_commits_leaves_nothing_done_and_is_mended(tmp_path):
    run = plan_tiny(tmp_path)
    fill(run)
    process = multiprocessing.get_context("spawn").Process(target=evaluate_and_die, args=(tmp_path,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert open_table(run.lake, "recommendations").version() == 0
    assert find_done(run.lake, run.stages["evaluate"]) is None
    evaluate(run)
    assert lists_of(run, "skip_gram") == {"u0": ["i3", "i2", "i1"], "u1": ["i0", "i2", "i1"]}
    assert open_table(run.lake, "recommendations").to_pyarrow_table().num_rows == 6


def test_search_through_the_index_asks_the_index(tmp_path, monkeypatch):
    run = plan_tiny(tmp_path, index={"kind": "flat"}, evaluate={"ks": [1], "search": "index"})
    fill(run)

    class Backwards:
        def search(self, queries, k):
            ids = np.tile(np.array([1, 0, 3, 2]), (len(queries), 1))[:, :k]
            return ids, np.zeros(ids.shape, dtype=np.float32)

    monkeypatch.setattr(rankers, "_open_index", lambda setting: Backwards())
    evaluate(run)
    assert lists_of(run, "skip_gram") == {"u0": ["i1"], "u1": ["i1"]}
    _, record = find_done(run.lake, run.stages["evaluate"])
    assert record.inputs["index"] == run.stages["index"].id


def test_the_oracle_stands_beside_the_models_of_a_synthetic_source(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_stage, "BLOCK_USERS", 7)
    planted = pytest.importorskip("recspark.sources.planted")
    sizes = {"num_users": 30, "num_items": 40, "num_clusters": 4, "sessions_per_user": 3}
    run = plan_tiny(tmp_path, source={"kind": "synthetic", "synthetic": sizes}, evaluate={"ks": [5]})
    items = [planted.item_id(39 - i) for i in range(40)]  # item_idx is not the generator's number
    users = [([u % 40], [], [], [(u + 1) % 40]) for u in range(30)]
    write_sessions(run, [3] * 39 + [0], users, ids=(items, [planted.user_id(29 - u) for u in range(30)]))
    write_embeddings(run, {i: [1.0, i / 40] for i in range(39)})
    write_graph(run, "item_knn_graph", {0: [(1, 0.5)]})
    evaluate(run)
    world = planted.PlantedWorld(run.config.source.synthetic, run.seed)
    lists = lists_of(run, "oracle")
    for u in range(30):
        scores = world.score_items(np.array([29 - u]))[0][::-1].copy()
        scores[[u, 39]] = -np.inf  # seen, and without train events
        assert lists[planted.user_id(29 - u)] == [items[i] for i in np.argsort(-scores, kind="stable")[:5]]


def test_a_missing_stage_is_named(tmp_path):
    run = plan_tiny(tmp_path)
    with pytest.raises(LakeError, match="run `recspark run CONF --to sessions` first"):
        evaluate(run)


def test_history_with_the_scored_slice_in_it_is_refused(tmp_path):
    conf = tmp_path / "conf.yaml"
    conf.write_text("split: {kind: leave_last_out, valid: {}}\nevaluate: {split: valid, history: train+valid}\n")
    with pytest.raises(ConfigError, match=r"evaluate: history train\+valid holds the items that split valid scores"):
        load_config(conf)


def test_blocks_of_users_give_the_lists_of_one_block(run, monkeypatch):
    whole = {label: lists_of(run, label) for label in ("skip_gram", "item_knn", "popularity")}
    monkeypatch.setattr(evaluate_stage, "BLOCK_USERS", 1)
    evaluate(run)
    assert {label: lists_of(run, label) for label in whole} == whole
