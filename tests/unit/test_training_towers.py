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
from recspark.errors import DataError, LakeError
from recspark.evaluate.leak.towers import encode_again
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.lake.folders import read_manifest
from recspark.models.item_neighbours import NONE, ItemNeighbours, find_neighbours
from recspark.pipeline.evaluate_stage import evaluate
from recspark.retrieval.query import recommend_for_user, similar_items
from recspark.retrieval.user_encoder import TowerEncoder, open_user_encoder
from recspark.training.inputs import find_inputs
from recspark.training.job import train
from recspark.training.objective import Place
from recspark.training.sequence_files import Sequences
from recspark.training.towers import backend as tower_backend
from recspark.training.towers.files import read_item_tower
from recspark.training.towers.model import build_tower_backend, find_item_neighbours, read_tower_data, settle
from recspark.training.towers.step import TowerStep
from recspark.training.world import World
from tests.helpers.tiny_lake import Parts, write_sessions
from tests.helpers.tower_lake import plan_towers
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
MORE = {"mf": {"training": {"epochs": 5}}, "interests": {"training": {"epochs": 5}}}


def rows(run: Run, table: str) -> pa.Table:
    found = read_table(find_table(run.lake, run.stages["train"], table))
    return found.filter(pc.equal(found["model_id"], run.stages["train"].id)).sort_by("idx")


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
    found = read_table(find_table(run.lake, run.stages["sessions"], "user_histories")).sort_by("user_idx")
    events = Ragged.from_arrow(found["item_idx"])
    train_part = events.where(events.place_of_value < np.repeat(found["num_train"].to_numpy(), events.lengths))
    listed = users["idx"].to_numpy()
    served = encoder.encode(train_part.take(listed), listed)
    np.testing.assert_allclose(served, vectors_of(users), rtol=1e-4, atol=1e-5)


def test_an_audit_finds_users_made_of_their_train_items_alone(trained: dict[str, Run]) -> None:
    run = trained["attention"]
    users = rows(run, "user_embeddings")
    found = read_table(find_table(run.lake, run.stages["sessions"], "user_histories")).sort_by("user_idx")
    events = Ragged.from_arrow(found["item_idx"])
    train_part = events.where(events.place_of_value < np.repeat(found["num_train"].to_numpy(), events.lengths))
    listed = users["idx"].to_numpy()
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    again = encode_again(embeddings, train_part.take(listed), listed)
    np.testing.assert_allclose(again, vectors_of(users), rtol=1e-4, atol=1e-5)
    with_test = encode_again(embeddings, events.take(listed), listed)
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
