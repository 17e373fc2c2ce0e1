"""Tower models from a lake to vectors and lists: what they learn, that they go on as if nothing had happened."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.sparse as sp
import torch

from recspark.config import Run
from recspark.contracts.tables import SESSIONS, USER_HISTORIES
from recspark.errors import DataError, LakeError
from recspark.evaluate.history_context import HistoryContext
from recspark.evaluate.leak.towers import encode_again
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.user_tower_file import find_event_columns
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_done, find_table, read_table, write_table
from recspark.lake.folders import read_manifest
from recspark.models.item_neighbours import NONE, ItemNeighbours, find_neighbours
from recspark.pipeline.evaluate_stage import evaluate
from recspark.retrieval.query import recommend_for_user, similar_items
from recspark.retrieval.rules import plan_rules
from recspark.retrieval.serving import Pinned, Recommender, read_blocks
from recspark.retrieval.user_encoder import TowerEncoder, open_user_encoder
from recspark.training.inputs import find_inputs
from recspark.training.job import train
from recspark.training.objective import Place
from recspark.training.readout import unit_rows
from recspark.training.sequence_files import Sequences
from recspark.training.towers import backend as tower_backend
from recspark.training.towers.files import read_item_tower
from recspark.training.towers.model import build_tower_backend, find_item_neighbours, read_tower_data, settle
from recspark.training.towers.step import TowerStep
from recspark.training.world import World
from tests.helpers.tiny_lake import Parts, rows_of, write_sessions
from tests.helpers.tower_lake import SKIPS, plan_towers, write_skips
from tests.helpers.training_lake import NUM_TOPICS, topic_purity, vectors_of, write_topic_sessions

GENRES = [{"name": "genre", "of": "item", "path": "g.csv", "key": "id", "column": "genre"}]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "light_gcn": ("light_gcn", {}),
    "light_gcn_ids": ("light_gcn", {"propagation": {"with_ids": True}, "start": "random", "loss": "bpr"}),
    "mf": ("mf", {}),
    "decay": ("two_tower", {}),
    "mean": ("two_tower", {"targets": "rest", "user": {"history": {"pooling": "mean", "shared": False}}}),
    "attention": ("two_tower", {"user": {"history": {"pooling": "attention"}}, "learn_temperature": True}),
    "interests": ("two_tower", {"user": {"history": {"pooling": "multi_interest", "num_interests": 2}}}),
    "weighted": ("two_tower", {"user": {"history": {"event_weights": True}}}),
    "weighted_sets": (
        "two_tower",
        {"targets": "rest", "user": {"history": {"pooling": "mean", "event_weights": True, "length_power": 0.5}}},
    ),
    "weighted_attention": (
        "two_tower",
        {"user": {"id": True, "history": {"pooling": "attention", "event_weights": True, "max_items": 5}}},
    ),
    "times": (
        "two_tower",
        {"user": {"time_features": ["hour_of_day", "day_of_week", "time_since_last"], "history": {"pooling": "mean"}}},
    ),
    "neighbours": ("two_tower", {"item": {"neighbours": {"count": 8, "num_walks": 30}}}),
    "sampled": (
        "two_tower",
        {
            "negatives": {
                "kind": "sampled", "uniform": 20, "popularity": 10, "queue": 100, "queue_after_steps": 5,
                "hard_graph": 2, "hard_model": 2, "hard_first_rank": 5, "hard_last_rank": 20, "hard_refresh_steps": 10,
                "hard_full_epoch": 1,
            },
            "user": {"id": True, "mlp": {"hidden": [16]}},
        },
    ),
}  # fmt: skip
MORE = {name: {"training": {"epochs": 5}} for name in ("mf", "interests", "weighted_attention")}


def rows(run: Run, table: str) -> pa.Table:
    found = read_table(find_table(run.lake, run.stages["train"], table))
    return found.filter(pc.equal(found["model_id"], run.stages["train"].id)).sort_by("idx")


def read_histories(run: Run, users: Any, is_train: bool) -> tuple[Ragged, HistoryContext]:
    """Histories of users in the table's order, all of them or the train part, with what the tower asks for, as of the
    newest train event.
    """
    found = read_table(find_table(run.lake, run.stages["sessions"], "user_histories")).sort_by("user_idx")
    events = Ragged.from_arrow(found["item_idx"])
    is_train_event = events.place_of_value < np.repeat(found["num_train"].to_numpy(), events.lengths)
    kept = is_train_event | (not is_train)
    own = events.where(kept)
    columns = find_event_columns(find_table(run.lake, run.stages["train"], "item_embeddings"))
    context = HistoryContext.from_rows(found, columns).pick(kept).take(own, users)
    until_us = int(HistoryContext.from_rows(found, ["ts"]).pick(is_train_event).ts_us.max())  # type: ignore[union-attr]
    return own.take(users), context.at(until_us, len(users))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One finished and evaluated run a model."""
    runs = {}
    for name, (kind, towers) in MODELS.items():
        runs[name] = plan_towers(tmp_path_factory.mktemp(name), kind, towers, **MORE.get(name, {}))
        write_topic_sessions(runs[name])
        train(runs[name])
        evaluate(runs[name])
    return runs


@pytest.mark.parametrize("name", MODELS)
def test_it_finds_the_planted_topics(trained: dict[str, Run], name: str) -> None:
    run = trained[name]
    facts = find_done(run.lake, run.stages["evaluate"])[1].facts["metrics"]  # type: ignore[index]
    kind = MODELS[name][0]
    assert facts[kind]["recall@5"] > 0.45  # of 12 items a topic some are seen; chance is .09
    assert facts[kind]["recall@5"] > 5 * facts["popularity"]["recall@5"]


@pytest.mark.parametrize("name", ["light_gcn", "decay"])
def test_items_of_a_topic_are_near(trained: dict[str, Run], name: str) -> None:
    assert topic_purity(vectors_of(rows(trained[name], "item_embeddings"))[:58]) > 0.9


@pytest.mark.parametrize("name", [n for n in MODELS if n != "interests"])
def test_users_have_the_vector_that_they_are_served_by(trained: dict[str, Run], name: str) -> None:
    run = trained[name]
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    vectors = read_item_vectors(embeddings)
    encoder, users = open_user_encoder(vectors, embeddings), rows(run, "user_embeddings")
    assert isinstance(encoder, TowerEncoder)
    listed = users["idx"].to_numpy()
    train_part, context = read_histories(run, listed, is_train=True)
    served = encoder.encode(train_part, listed, context)
    np.testing.assert_allclose(served, vectors_of(users), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "weighted_attention", "times"])
def test_an_audit_finds_users_made_of_their_train_items_alone(trained: dict[str, Run], name: str) -> None:
    run = trained[name]
    users = rows(run, "user_embeddings")
    listed = users["idx"].to_numpy()
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    train_part, context = read_histories(run, listed, is_train=True)
    again = encode_again(embeddings, train_part, listed, context)
    np.testing.assert_allclose(again, vectors_of(users), rtol=1e-4, atol=1e-5)
    events, context = read_histories(run, listed, is_train=False)
    with_test = encode_again(embeddings, events, listed, context)
    assert np.abs(with_test - vectors_of(users)).max() > 0.01


def test_a_user_of_light_gcn_is_the_sum_of_his_items_as_the_graph_has_it(trained: dict[str, Run]) -> None:
    """`item_queries` against the propagated vector of the user himself."""
    from recspark.models.light_gcn import BipartiteGraph

    run = trained["light_gcn"]
    users_UN = read_tower_data(run, find_inputs(run)).users_UN()
    graph = BipartiteGraph(users_UN, 0.35, 0.35)
    ids = torch.randn(sum(users_UN.shape), 4, generator=torch.Generator().manual_seed(0))
    own = graph.add_layers(ids, 3, with_ids=False)[: users_UN.shape[0]]
    summed = torch.from_numpy((users_UN @ graph.item_queries(ids, 3).numpy()).astype(np.float32))
    has_items = torch.from_numpy(np.asarray(users_UN.sum(axis=1)) > 0)
    cosine = torch.nn.functional.cosine_similarity(own, summed)[has_items]
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@pytest.mark.parametrize("name", ["decay", "light_gcn", "sampled"])
def test_queries_answer_with_items_of_the_topic(trained: dict[str, Run], name: str) -> None:
    near = similar_items(trained[name], "i7", 3)
    assert [int(n.item_id[1:]) % NUM_TOPICS for n in near] == [7 % NUM_TOPICS] * 3
    assert len(recommend_for_user(trained[name], "u3", 4)) == 4


def train_with_a_stop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops by an error after step 17; the checkpoint of step 14 is the newest."""
    steps = 0
    step = tower_backend.TowerBackend.step

    def failing(self: Any, prepared: Any, rate: float) -> None:
        nonlocal steps
        steps += 1
        if steps > 17:
            raise RuntimeError("the power went")
        step(self, prepared, rate)

    with monkeypatch.context() as patch:
        patch.setattr(tower_backend.TowerBackend, "step", failing)
        with pytest.raises(RuntimeError, match="the power went"):
            train(run)
    train(run)


@pytest.mark.parametrize("name", ["attention", "sampled", "light_gcn", "neighbours"])
def test_a_resumed_training_gives_the_same_vectors(
    trained: dict[str, Run], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, towers = MODELS[name]
    run = plan_towers(tmp_path, kind, towers)
    write_topic_sessions(run)
    train_with_a_stop(run, monkeypatch)
    for table in ("item_embeddings", "user_embeddings"):
        np.testing.assert_array_equal(vectors_of(rows(run, table)), vectors_of(rows(trained[name], table)))


def test_a_published_model_is_exported_without_training_again(
    trained: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained["sampled"]
    before = {table: vectors_of(rows(run, table)) for table in ("item_embeddings", "user_embeddings")}
    for table in before:
        shutil.move(Path(run.lake, "tables", table), tmp_path / table)
    monkeypatch.setattr(tower_backend.TowerBackend, "step", lambda *_: pytest.fail("trained again"))
    train(run)
    for table, vectors in before.items():
        np.testing.assert_array_equal(vectors_of(rows(run, table)), vectors)
        shutil.rmtree(Path(run.lake, "tables", table))
        shutil.move(tmp_path / table, Path(run.lake, "tables", table))


def test_a_user_whom_training_never_saw_is_told_by_his_history(trained: dict[str, Run]) -> None:
    """Nobody known: by the same history, decay and light_gcn say what they say of a known user; mf the items' mean."""
    for name in ("decay", "light_gcn", "mf", "sampled"):
        run = trained[name]
        embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
        encoder = open_user_encoder(read_item_vectors(embeddings), embeddings)
        history = Ragged.from_rows([[7, 12, 2]])
        known, unknown = encoder.encode(history, np.array([3])), encoder.encode(history)
        assert unknown.any()
        assert np.allclose(known, unknown) == (name in ("decay", "light_gcn"))


def test_weights_reach_every_path_that_serves_users(trained: dict[str, Run]) -> None:
    """Query, batch lists and evaluation list what the tower says of histories with their weights, and not without."""
    run = trained["weighted"]
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    vectors = read_item_vectors(embeddings)
    encoder, users = open_user_encoder(vectors, embeddings), np.arange(40)

    def lists(history: Ragged, context: HistoryContext) -> list[list[int]]:
        scores = vectors.prepare_queries(encoder.encode(history, users, context)) @ vectors.candidates.T
        out = [set(history.row(u).tolist()) for u in users]
        order = vectors.item_idx[np.argsort(-scores, axis=1, kind="stable")]
        return [[i for i in order[u].tolist() if i not in out[u]][:5] for u in users]

    events, context = read_histories(run, users, is_train=False)
    expected = lists(events, context)
    assert expected != lists(events, HistoryContext.plain(events, 0))
    asked = [[int(n.item_id[1:]) for n in recommend_for_user(run, f"u{u}", 5)] for u in users[:8]]
    assert asked == expected[:8]
    names = ("items", "users", "user_histories", "item_embeddings")
    pinned = Pinned(run.lake, **{name: find_table(run.lake, run.producer(name), name) for name in names})
    (block,) = read_blocks(pinned)
    rules = plan_rules(pinned.items, run.config.recommend.model_copy(update={"k": 5}))
    listed = Recommender(pinned, rules).list_users(block["user_id"], block)["item_ids"].to_pylist()
    assert [[int(i[1:]) for i in row] for row in listed[:40]] == expected
    scored = read_table(find_table(run.lake, run.stages["evaluate"], "recommendations")).to_pylist()
    by_user = {row["user_id"]: row["item_ids"] for row in scored if row["model_id"] == run.stages["train"].id}
    before_test = np.concatenate(
        [np.arange(a, b - 1) for a, b in zip(events.offsets[:-1], events.offsets[1:], strict=True)]
    )
    history = Ragged.from_lengths(events.lengths - 1, events.values[before_test])
    evaluated = lists(history, context.pick(before_test))
    scored_users = [u for u in users if f"u{u}" in by_user]  # of the others nothing is held out that is unseen
    assert len(scored_users) > 20
    assert [[int(i[1:]) for i in by_user[f"u{u}"]] for u in scored_users] == [evaluated[u] for u in scored_users]


@pytest.mark.parametrize(("wrong", "shown"), [(float("nan"), "nan"), (-1.0, r"-1\.0")])
def test_weights_that_are_none_are_told_by_name(tmp_path: Path, wrong: float, shown: str) -> None:
    run = plan_towers(tmp_path, *MODELS["weighted"])
    write_topic_sessions(run)
    table = find_table(run.lake, run.stages["sessions"], "user_histories")
    rows_ = read_table(table).to_pylist()
    rows_[3]["weight"][0] = wrong
    write_table(run.lake, USER_HISTORIES, rows_of("user_histories", rows_), run.record("sessions", is_marker=False))
    sessions = read_table(find_table(run.lake, run.stages["sessions"], "sessions"))
    tables = {"items": 0, "users": 0, "user_histories": 1, "quarantine": 0}
    write_table(run.lake, SESSIONS, sessions, run.record("sessions", is_marker=True, tables=tables))
    with pytest.raises(
        DataError, match=rf"1 of [\d,]+ event weights are no numbers of 0 or more, the first is {shown}; run"
    ):
        train(run)


def scores_of_skipped(run: Run) -> float:
    """The mean cosine of users with what they skipped, less that with the rest of their topic which they never took."""
    items, users = (vectors_of(rows(run, table)) for table in ("item_embeddings", "user_embeddings"))
    cosines = unit_rows(users) @ unit_rows(items).T
    histories = read_table(find_table(run.lake, run.stages["sessions"], "user_histories")).sort_by("user_idx")
    skipped = read_table(find_table(run.lake, run.stages["negatives"], "user_negatives")).sort_by("user_idx")
    ahead = []
    for user, (row, skips) in enumerate(
        zip(histories["item_idx"].to_pylist(), skipped["item_idx"].to_pylist(), strict=False)
    ):
        others = [i for i in range(row[0] % NUM_TOPICS, 58, NUM_TOPICS) if i not in {*row, *skips}]
        if others:
            ahead.append(cosines[user, skips].mean() - cosines[user, others].mean())
    return float(np.mean(ahead))


@pytest.mark.parametrize("targets", ["next", "rest"])
def test_what_users_skip_is_pushed_away_from_them(tmp_path: Path, targets: str) -> None:
    """With a vector a user, which can tell him from others of his topic; the same lake without explicit negatives."""
    found = {}
    for num, weight in ((1, 1e-6), (3, 10.0)):
        towers = {
            "negatives": {"explicit": SKIPS | {"num": num, "weight": weight}}, "targets": targets,
            "user": {"id": True, "history": {"pooling": "mean", "dropout": 0.0}},
        }  # fmt: skip
        run = plan_towers(tmp_path / str(num), "two_tower", towers, training={"epochs": 8, "learning_rate": 0.2})
        write_topic_sessions(run)
        write_skips(run)
        train(run)
        found[num] = scores_of_skipped(run)
    assert abs(found[1]) < 0.01
    assert found[3] < found[1] - 0.02
    inputs = find_done(run.lake, run.stages["train"])[1].inputs  # type: ignore[index]
    assert inputs["user_negatives"] == 0


def test_without_the_table_of_explicit_negatives_the_stage_to_run_is_named(tmp_path: Path) -> None:
    run = plan_towers(tmp_path, "two_tower", {"negatives": {"explicit": SKIPS}})
    write_topic_sessions(run)
    with pytest.raises(LakeError, match=r"user_negatives: no version for this config .* --to negatives` first"):
        train(run)


def test_a_lost_user_tower_is_told_by_name(trained: dict[str, Run]) -> None:
    run = trained["mean"]
    path = Path(run.lake, "models", run.stages["train"].id, "user_tower.npz")
    kept = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(LakeError, match=r"user_tower\.npz"):
            recommend_for_user(run, "u3", 4)
    finally:
        path.write_bytes(kept)


def test_the_popularity_term_is_chosen_on_the_validation_slice(tmp_path: Path) -> None:
    run = plan_towers(
        tmp_path, "light_gcn", valid={"kind": "last_k", "k": 2}, popularity_term="auto",
        readout_search={"popularity_terms": [5.0, 0.0, 0.01]},
    )  # fmt: skip
    write_topic_sessions(run)
    train(run)
    facts = find_done(run.lake, run.stages["train"])[1].facts  # type: ignore[index]
    values = {float(term): value for term, value in facts["readout_search"]["results"].items()}
    assert set(values) == {5.0, 0.0, 0.01}
    assert facts["popularity_term"] == max(values, key=lambda t: values[t]) != 5.0
    assert values[0.0] > values[5.0]


def plan_with_genres(folder: Path, **item: Any) -> Run:
    towers = {"item": {"features": ["genre"], "id_dropout": 0.5, **item}}
    return plan_towers(folder, "two_tower", towers, features=GENRES)


def write_genres(run: Run, genres: list[str | None]) -> None:
    """The topics' sessions; items have a genre each."""
    write_topic_sessions(run, features={"f_genre": genres})


@pytest.mark.parametrize("count", [0, 8])
def test_an_item_without_events_is_placed_by_its_features(tmp_path: Path, count: int) -> None:
    run = plan_with_genres(tmp_path, neighbours={"count": count})
    write_genres(run, [f"genre {i % NUM_TOPICS}" for i in range(60)])
    train(run)
    items = rows(run, "item_embeddings")
    assert items["idx"].to_pylist() == list(range(60))  # item 59 has no train event
    vectors = vectors_of(items)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argsort(-(unit @ unit[59]))[1:6]
    assert set(nearest % NUM_TOPICS) == {59 % NUM_TOPICS}
    manifest = read_manifest(run.lake, "models", run.stages["train"].id)
    assert manifest is not None
    names = ["features.json", "item_tower.npz", "user_tower.npz", "vectors.safetensors"]
    assert sorted(file.path for file in manifest.files) == names


def test_a_feature_that_is_not_there_or_empty_is_told_by_name(tmp_path: Path) -> None:
    run = plan_with_genres(tmp_path / "a")
    write_topic_sessions(run)
    with pytest.raises(DataError, match=r"no column f_genre at version 0; it has no features\. Run the sessions stage"):
        train(run)
    run = plan_with_genres(tmp_path / "b")
    write_genres(run, [None] * 60)
    with pytest.raises(
        DataError, match=r"f_genre: no value in any row with train events; check the feature's join key"
    ):
        train(run)


def neighbours_of(run: Run) -> ItemNeighbours:
    found = find_item_neighbours(settle(run).item, read_tower_data(run, find_inputs(run)), run.seed)
    assert found is not None
    return found


def item_arrays(run: Run) -> dict[str, Any]:
    manifest = read_manifest(run.lake, "models", run.stages["train"].id)
    assert manifest is not None
    return read_item_tower(run.lake, manifest)[0]


def join_plainly(arrays: dict[str, Any], x: np.ndarray, neighbours: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """The formula by loops, of one item's input and its neighbours."""
    pooled = np.zeros(16)
    for neighbour, count in zip(neighbours, visits, strict=True):
        if count:
            said = arrays["neighbours.message.weight"] @ arrays["inputs"][neighbour] + arrays["neighbours.message.bias"]
            pooled += count / visits.sum() * np.maximum(said, 0)
    hidden = arrays["neighbours.join.weight"] @ np.concatenate([x, pooled]) + arrays["neighbours.join.bias"]
    hidden = np.maximum(hidden, 0)
    return np.asarray(x + arrays["neighbours.out.weight"] @ (hidden / max(np.linalg.norm(hidden), 1e-12)))


def test_items_with_neighbours_are_the_formula_by_loops(trained: dict[str, Run]) -> None:
    run = trained["neighbours"]
    arrays, near, items = item_arrays(run), neighbours_of(run), rows(run, "item_embeddings")
    for item, vector in zip(items["idx"].to_pylist(), vectors_of(items), strict=True):
        expected = join_plainly(arrays, arrays["inputs"][item], near.items[item], near.visits[item])
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(arrays["neighbours.join.weight"][:, :8]).max() > 0.01  # zeros at the start


def test_neighbours_know_train_events_alone(trained: dict[str, Run]) -> None:
    """Item 59 stands in the validation part of every history, and nowhere else."""
    near = neighbours_of(trained["neighbours"])
    assert (near.items[59] == NONE).all()
    assert not (near.items == 59).any()
    is_there = near.items >= 0
    topics = np.broadcast_to(np.arange(60)[:, None] % NUM_TOPICS, near.items.shape)
    assert (near.items[is_there] % NUM_TOPICS == topics[is_there]).all()


def test_a_step_leaves_out_what_its_own_users_alone_have_together(tmp_path: Path) -> None:
    run = plan_towers(tmp_path, "two_tower", {"item": {"neighbours": {"count": 4}}})
    parts: list[Parts] = [([0, 1, 2], [], [], []), ([3, 4], [], [], []), ([3, 4], [], [], []), ([5, 6], [], [], [])]
    write_sessions(run, [1, 1, 1, 2, 2, 1, 1], parts, days=[[1, 2, 3], [1, 2], [1, 2], [1, 2]])
    backend = build_tower_backend(run, find_inputs(run), World(), 1)
    batch = Sequences(np.array([0, 1, 2, 3, 4], np.int32), np.array([0, 3, 5]), np.array([0, 1], np.int32))
    step = backend.prepare(batch, Place(0, 0, 0, 0))
    assert isinstance(step, TowerStep)
    assert step.near is not None
    stops = np.append(step.near.starts[1:], len(step.near.places))
    found = [step.near.items[step.near.places[a:b]].tolist() for a, b in zip(step.near.starts, stops, strict=True)]
    assert found == [[], [], [], [4], [3], [6], [5]]  # users 1 and 2 both have 3 and 4; user 3 is not in the batch


def write_cold_items(run: Run) -> None:
    """Items 0..59 of five genres, of which users have six of one; 60..64, one a genre, are wanted in the test alone."""
    random, parts = np.random.default_rng(3), []
    for user in range(400):
        genre = user % NUM_TOPICS
        seen = random.choice(np.arange(genre, 60, NUM_TOPICS), 6, replace=False)
        parts.append((seen.tolist(), [], [], [60 + genre]))
    counts = np.bincount(np.concatenate([p[0] for p in parts]), minlength=65)
    days = [[*range(1, 7), 40] for _ in parts]
    genres = [f"genre {i % NUM_TOPICS}" for i in range(65)]
    write_sessions(run, counts.tolist(), parts, days=days, f_genre=genres)


def test_items_unseen_in_training_are_found_and_counted_as_a_segment(tmp_path: Path) -> None:
    run = plan_with_genres(tmp_path, neighbours={"count": 8})
    write_cold_items(run)
    train(run)
    evaluate(run)
    found = read_table(
        find_table(run.lake, run.stages["evaluate"], "metrics"), filters=[("segment", "=", "cold_items")]
    )
    values = {row["value"] for row in found.to_pylist() if row["name"] == "recall" and row["num_users"] == 400}
    # A user has not seen 6 of the genre's 12 items, and the cold one: by chance among them 5 in 7; popularity has none.
    assert max(values) > 0.5
    assert min(values) == 0


def test_an_item_that_came_after_training_is_placed_by_the_users_it_has_by_then(tmp_path: Path) -> None:
    """Features say nothing here: of items whose id is left out, neighbours alone tell the topic."""
    towers = {"item": {"features": ["genre"], "id_dropout": 0.5, "neighbours": {"count": 8}}}
    run = plan_towers(tmp_path, "two_tower", towers, features=GENRES)
    write_genres(run, ["thing"] * 60)
    train(run)
    users = read_tower_data(run, find_inputs(run)).users_UN()
    of_item = users.toarray().T
    with_new = sp.csr_array(np.concatenate([of_item, of_item[:NUM_TOPICS]]))  # items 60.. have the users of 0..4
    near = find_neighbours(with_new, users, settle(run).item.neighbours, run.seed)
    arrays, vectors = item_arrays(run), vectors_of(rows(run, "item_embeddings"))
    alike = arrays["inputs"][59]  # an item without events: what its features say
    for topic in range(NUM_TOPICS):
        vector = join_plainly(arrays, alike, near.items[60 + topic], near.visits[60 + topic])
        nearest = np.argsort(-(vectors @ vector) / np.linalg.norm(vectors, axis=1))[:5]
        assert set(nearest % NUM_TOPICS) == {topic}
