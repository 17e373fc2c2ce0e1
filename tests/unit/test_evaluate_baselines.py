"""Baselines through the whole stage, beside a model and as the model: the same users, masks and lists either way."""

import numpy as np
import pytest

from recspark.baselines import registry
from recspark.baselines.ease import build_ease
from recspark.baselines.rp3beta import build_rp3beta
from recspark.config.baselines import Rp3BetaConfig
from recspark.contracts import columns as c
from recspark.errors import ConfigError, DataError, LakeError, QueryError
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.pipeline import evaluate_stage
from recspark.pipeline.evaluate_stage import evaluate, model_id_of
from recspark.pipeline.limits import check_catalogue
from recspark.retrieval.query import similar_items
from recspark.training.job import train
from tests.helpers.tiny_lake import plan_tiny, write_embeddings, write_graph, write_sessions

NUM_USERS, NUM_ITEMS, K = 60, 20, 6
ALL_KINDS = ("popularity", "item_knn", "rp3beta", "ease", "ppmi_svd", "spectral")
EDGES = {i: [((i + 1) % 19, 0.5), ((i + 4) % 19, 0.25)] for i in range(19)}


def draw_users():
    """Users of two tastes with repeats; items 18 (validation only) and 19 (test only) have no train events."""
    random, users = np.random.default_rng(0), []
    for user in range(NUM_USERS):
        own = np.arange(user % 2, 18, 2)
        train_items = random.choice(own, 5).tolist()
        users.append((train_items, [18] if user % 7 == 0 else [], [], [int(random.choice(own)), 19]))
    users.append(([], [], [3], [5]))  # cold
    return users


USERS = draw_users()
TRAIN = np.zeros((len(USERS), NUM_ITEMS))
for _row, _parts in enumerate(USERS):
    TRAIN[_row, _parts[0]] = 1
NUM_EVENTS = np.bincount([i for parts in USERS for i in parts[0]], minlength=NUM_ITEMS)


def plan(folder, kind="skip_gram", names=(), **sections):
    """A run on the lake; ``names`` stand beside the model."""
    knobs = sections.pop("knobs", {})
    return plan_tiny(
        folder,
        model={"kind": kind, "embedding_dim": 4},
        baselines={"names": list(names), **knobs},
        evaluate={"ks": [1, K], **sections},
    )


def fill(run):
    write_sessions(run, NUM_EVENTS.tolist(), USERS)
    if "item_knn_graph" in run.stages:
        write_graph(run, "item_knn_graph", EDGES)
    if run.config.model.kind == "skip_gram":
        write_embeddings(run, {i: [1.0, i / 40, 0, 0] for i in range(18)})
    elif "train" in run.stages:
        train(run)


def build(run):
    fill(run)
    evaluate(run)
    return run


def lists_of(run, label):
    table = find_table(run.lake, run.stages["evaluate"], "recommendations")
    rows = read_table(table, filters=[(c.PURPOSE, "=", "test"), (c.MODEL_ID, "=", model_id_of(run, label))])
    return {row[c.USER_ID]: row[c.ITEM_IDS] for row in rows.to_pylist()}


def explicit_lists(scores_of_history):
    """Each scored user's list by a full sort of explicit scores, unknown and seen items left out."""
    lists = {}
    for user, (train_items, valid, context, test) in enumerate(USERS):
        history = set(train_items) | set(valid) | set(context)
        if history and set(test) - history:
            scores = scores_of_history(sorted(history))
            allowed = [i for i in range(NUM_ITEMS) if NUM_EVENTS[i] and i not in history]
            lists[f"u{user}"] = [f"i{i}" for i in sorted(allowed, key=lambda i: (-np.float32(scores[i]), i))[:K]]
    return lists


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A skip-gram with every baseline beside it."""
    return build(plan(tmp_path_factory.mktemp("beside"), names=ALL_KINDS))


def test_every_baseline_stands_beside_the_model_on_the_same_users(beside):
    _, record = find_done(beside.lake, beside.stages["evaluate"])
    order = ["skip_gram", "item_knn", "rp3beta", "ease", "ppmi_svd", "spectral", "popularity"]
    assert record.facts["models"] == order
    assert len({frozenset(lists_of(beside, label)) for label in order}) == 1
    assert len(set(record.facts["model_ids"].values())) == 7
    for label in ("rp3beta", "ease", "ppmi_svd", "spectral"):  # the tastes are plain to see
        assert record.facts["metrics"][label]["recall@6"] > record.facts["metrics"]["popularity"]["recall@6"]


def test_lists_hold_neither_seen_items_nor_such_without_train_events(beside):
    for label in (*ALL_KINDS, "skip_gram"):
        for user, items in lists_of(beside, label).items():
            train_items, valid, context, _ = USERS[int(user[1:])]
            seen = {f"i{i}" for i in (*train_items, *valid, *context)}
            assert len(set(items)) == len(items) == K
            assert not seen & set(items)
            assert not {"i18", "i19"} & set(items)


def test_rp3beta_lists_are_those_of_the_formula(beside):
    import scipy.sparse as sp

    scores = build_rp3beta(sp.csr_array(TRAIN), Rp3BetaConfig()).toarray()
    assert lists_of(beside, "rp3beta") == explicit_lists(lambda history: scores[history].sum(axis=0, dtype=np.float32))


def test_ease_lists_are_those_of_the_formula(beside):
    import scipy.sparse as sp

    weights = np.zeros((NUM_ITEMS, NUM_ITEMS), np.float32)
    known = np.flatnonzero(NUM_EVENTS)
    weights[np.ix_(known, known)] = build_ease(sp.csr_array(TRAIN[:, known]), 250.0)
    assert lists_of(beside, "ease") == explicit_lists(lambda history: weights[history].sum(axis=0, dtype=np.float32))


@pytest.mark.parametrize("kind", ["popularity", "item_knn", "rp3beta", "ease"])
def test_a_model_that_ranks_lists_needs_no_training_and_lists_the_same(beside, tmp_path, kind):
    run = plan(tmp_path, kind)
    assert not {"graph", "walks", "train", "index"} & set(run.stages)
    build(run)
    assert lists_of(run, kind) == lists_of(beside, kind)
    _, record = find_done(run.lake, run.stages["evaluate"])
    assert record.facts["trained"] == kind
    assert record.facts["models"] == [kind]
    assert "item_embeddings" not in record.inputs
    with pytest.raises(QueryError, match=f"model.kind {kind} ranks lists without vectors; its lists are in table"):
        similar_items(run, "i0", 2)


def test_a_baseline_with_too_many_dimensions_is_refused_before_any_is_built(tmp_path, monkeypatch):
    run = plan(tmp_path, names=("item_knn", "spectral"), knobs={"spectral": {"skip": 10}})
    fill(run)
    monkeypatch.setattr(registry, "build_score_matrix", None)
    for check in (check_catalogue, evaluate):
        with pytest.raises(DataError, match=r"4 directions \(model.embedding_dim\) behind 10 skipped .* but 18 items"):
            check(run)


@pytest.mark.parametrize(("kind", "readout"), [("ppmi_svd", "input_output"), ("spectral", "input")])
def test_a_model_in_closed_form_lists_what_it_lists_beside_another(tmp_path, kind, readout):
    alike = {
        "readout": readout,
        "metric": "ip",
        "popularity_term": 0.2,
        "history_decay": 0.5,
        "history_items": 4,
    }
    run = plan_tiny(tmp_path, model={"kind": kind, "embedding_dim": 4, **alike}, evaluate={"ks": [1, K]},
                    baselines={"names": []})  # fmt: skip
    build(run)
    other = plan(tmp_path, names=[kind], knobs={kind: alike})
    write_embeddings(other, {i: [1.0, i / 40, 0, 0] for i in range(18)})
    evaluate(other)
    assert lists_of(run, kind) == lists_of(other, kind)
    assert model_id_of(run, kind) == run.stages["train"].id
    assert [n.item_id for n in similar_items(run, "i0", 2)]


@pytest.mark.parametrize("kind", ["item_knn", "rp3beta", "ease"])
@pytest.mark.parametrize("weights", [{"history_items": 1}, {"history_decay": 0.5}])
def test_lists_by_the_last_items(beside, tmp_path, kind, weights):
    """With one item the lists are those of histories cut to it, seen items still masked."""
    run = build(plan(tmp_path, kind, knobs={kind: weights}))
    assert lists_of(run, kind) != lists_of(beside, kind)
    assert run.stages["evaluate"].sections["baselines"][kind]["history_items"] == weights.get("history_items")
    scores = dense_scores(kind)
    for user, items in lists_of(run, kind).items():
        train_items, valid, context, _ = USERS[int(user[1:])]
        history = [i for i in (*train_items, *valid, *context) if scores[i].any()]
        newest = history[::-1][: weights.get("history_items")]
        of_item = {i: weights.get("history_decay", 1.0) ** newest.index(i) for i in sorted(newest)}
        summed = sum((np.float32(w) * scores[i] for i, w in of_item.items()), np.zeros(NUM_ITEMS, np.float32))
        seen = {*train_items, *valid, *context}
        allowed = [i for i in range(NUM_ITEMS) if NUM_EVENTS[i] and i not in seen]
        assert items == [f"i{i}" for i in sorted(allowed, key=lambda i: (-summed[i], i))[:K]]


def dense_scores(kind):
    """Row = item of a history, column = candidate."""
    import scipy.sparse as sp

    scores = np.zeros((NUM_ITEMS, NUM_ITEMS), np.float32)
    if kind == "rp3beta":
        return build_rp3beta(sp.csr_array(TRAIN), Rp3BetaConfig()).toarray()
    if kind == "ease":
        known = np.flatnonzero(NUM_EVENTS)
        scores[np.ix_(known, known)] = build_ease(sp.csr_array(TRAIN[:, known]), 250.0)
        return scores
    for src, edges in EDGES.items():
        for dst, score in edges:
            scores[src, dst] = score
    return scores


def test_the_model_is_not_listed_twice(tmp_path):
    run = build(plan(tmp_path, "rp3beta", names=["rp3beta", "popularity"]))
    _, record = find_done(run.lake, run.stages["evaluate"])
    assert record.facts["models"] == ["rp3beta", "popularity"]


def test_recent_popularity_follows_the_times_of_train_events(tmp_path):
    run = plan(tmp_path, "popularity", knobs={"popularity": {"half_life_days": 1.0}})
    days = [[0, 0, 0, 9], [0, 8, 30]]  # user 0: items 0, 0, 0 at day 0 and 1 at day 9; user 1: 0, 2 and, in test, 3
    users = [([0, 0, 0, 1], [], [], []), ([0, 2], [], [], [3]), ([3], [], [], [1])]
    write_sessions(run, [4, 1, 1, 1], users, days=[*days, [1, 30]])
    evaluate(run)
    # 1 at day 9 counts 1, 2 at day 8 a half, 3 at day 1 2^-8, 0 at day 0 4 x 2^-9
    assert lists_of(run, "popularity") == {"u1": ["i1", "i3"], "u2": ["i1", "i2", "i0"]}


def test_blocks_of_users_give_the_lists_of_one_block(beside, monkeypatch):
    whole = {label: lists_of(beside, label) for label in ALL_KINDS}
    monkeypatch.setattr(evaluate_stage, "BLOCK_USERS", 7)
    evaluate(beside)
    assert {label: lists_of(beside, label) for label in ALL_KINDS} == whole


def test_ease_is_refused_before_anything_is_scored(tmp_path, monkeypatch):
    run = plan(tmp_path, names=["popularity", "ease"], knobs={"ease": {"max_items": 17}})
    check_catalogue(run)  # nothing is known yet
    fill(run)
    monkeypatch.setattr(evaluate_stage, "_evaluate_model", lambda *_: pytest.fail("too late"))
    for check in (evaluate, check_catalogue):
        with pytest.raises(ConfigError, match="ease inverts a matrix of items x items, 18 items are more than 17"):
            check(run)
    check_catalogue(plan(tmp_path, names=["popularity"]))
    check_catalogue(plan(tmp_path, names=["ease"], knobs={"ease": {"max_items": 18}}))


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(LakeError, match="run `recspark run CONF --to sessions` first"):
        evaluate(plan(tmp_path, "rp3beta"))
