"""Exported towers compute what was trained, for any batch and length; what cannot be exported is told."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recspark.config import Run
from recspark.errors import ConfigError, TrainingError
from recspark.evaluate.history_context import HistoryContext, raise_weights
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.time_features import NEVER
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table, read_table
from recspark.pipeline import towers
from recspark.retrieval.rerank import open_reranker
from recspark.retrieval.user_encoder import open_user_encoder
from recspark.training.inputs import find_inputs
from recspark.training.job import train
from recspark.training.towers.model import find_item_neighbours, read_tower_data, settle
from tests.helpers.tiny_lake import plan_tiny
from tests.helpers.tower_lake import plan_towers
from tests.helpers.training_lake import NUM_TOPICS, write_topic_sessions

GENRES = [{"name": "genre", "of": "item", "path": "g.csv", "key": "id", "column": "genre", "kind": "multi"}]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "attention": (
        "two_tower",
        {
            "item": {"features": ["genre"], "fusion": "gate", "mlp": {"hidden": [12], "norm": "batch"}},
            "user": {"id": True, "history": {"pooling": "attention", "max_items": 6}},
        },
    ),
    "neighbours": (
        "two_tower",
        {"item": {"id": False, "features": ["genre"], "neighbours": {"count": 5, "num_walks": 40}}},
    ),
    "interests": ("two_tower", {"user": {"history": {"pooling": "multi_interest"}, "mlp": {"hidden": [6]}}}),
    "decay": ("two_tower", {}),
    "last": ("two_tower", {"user": {"history": {"max_items": 1}}}),
    "weighted": ("two_tower", {"user": {"history": {"pooling": "attention", "event_weights": True}}}),
    "weighted_mean": (
        "two_tower",
        {
            "user": {
                "time_features": ["time_since_last", "hour_of_day"],
                "history": {"pooling": "mean", "event_weights": True},
            }
        },
    ),
    "times": ("two_tower", {"user": {"id": True, "time_features": ["day_of_week", "hour_of_day", "time_since_last"]}}),
    "light_gcn": ("light_gcn", {}),
    "mf": ("mf", {}),
    "ranked": (
        "two_tower",
        {
            "user": {"history": {"max_items": 6, "shared": False}},
            "ranking": {"kind": "target_attention", "weights": "softmax", "num_negatives": 6},
        },
    ),
}
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, Path]]:
    """Each model trained for an epoch and exported."""
    found = {}
    genres = [[f"g{i % NUM_TOPICS}", "all"] if i % 7 else None for i in range(60)]
    for name, (kind, sections) in MODELS.items():
        folder = tmp_path_factory.mktemp(name)
        run = plan_towers(folder, kind, sections, features=GENRES, training={"epochs": 1})
        write_topic_sessions(run, num_sessions=128, features={"f_genre": genres})
        train(run)
        towers.write_towers(run, folder / "out")
        found[name] = run, folder / "out"
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_program_makes_the_vectors_that_users_are_served_by(
    exported: dict[str, tuple[Run, Path]], name: str
) -> None:
    run, folder = exported[name]
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    encoder = open_user_encoder(read_item_vectors(embeddings), embeddings)
    rows = [[7], [1, 2, 3, 4], []]
    padded = torch.tensor([[7, -1, -1, -1], [1, 2, 3, 4], [-1] * 4])
    if name == "last":
        padded = torch.tensor([[7], [4], [-1]])  # as many as the schema says
    program = torch.export.load(folder / "user_tower.pt2").module()
    for users in ([-1, -1, -1], [3, 0, -1]):
        if name == "mf":
            users = [-1, -1, -1]  # others take their row of user_embeddings
        weights = torch.tensor([[2.0, 0, 0, 0], [0.5, 0, 3, 1], [0.0] * 4])
        flat = np.array([2.0, 0.5, 0, 3, 1], np.float32)
        ts_us = 10**15 + np.array([0, 1, 2, 3, 4]) * 10**9
        moment_us, last_us = np.array([10**15 + 1, 10**15 + 10**12, -1]), np.array([10**15, 10**15 + 4 * 10**9, -1])
        asked_us = np.where(moment_us < 0, NEVER, moment_us)
        context = HistoryContext(raise_weights(flat), ts_us).at(asked_us, len(rows))
        expected = encoder.encode(Ragged.from_rows(rows), np.array(users), context)
        more = [weights] if name.startswith("weighted") else []
        if name in ("times", "weighted_mean"):
            more += [torch.from_numpy(moment_us), torch.from_numpy(last_us)]
        with torch.no_grad():
            found = program(padded, torch.tensor(users), *more).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_program_of_a_ranking_head_scores_as_lists_are_ranked(exported: dict[str, tuple[Run, Path]]) -> None:
    run, folder = exported["ranked"]
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    vectors = read_item_vectors(embeddings)
    reranker, rows = open_reranker(vectors, embeddings), [[7], [1, 2, 3, 4, 5, 6]]
    assert reranker is not None
    encoder = open_user_encoder(vectors, embeddings)
    users = encoder.encode(Ragged.from_rows(rows), np.array([-1, -1]))
    candidates = np.array([[3, 9, 20, 41], [50, 2, 8, 0]])
    expected = reranker.score(users, Ragged.from_rows(rows), vectors.rows_of(candidates))
    padded = torch.tensor([[7, -1, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6]])
    program = torch.export.load(folder / "ranking_head.pt2").module()
    with torch.no_grad():
        found = program(padded, torch.from_numpy(users), torch.from_numpy(candidates)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    schema = json.loads((folder / "schema.json").read_text())
    assert schema["ranking_head"]["items"] == "as of user_tower, the last 6"
    assert "ranking_head" not in json.loads((exported["decay"][1] / "schema.json").read_text())


def test_the_item_tower_gives_the_items_vectors_from_id_and_features(exported: dict[str, tuple[Run, Path]]) -> None:
    run, folder = exported["attention"]
    schema = json.loads((folder / "schema.json").read_text())
    (genre,) = schema["features"]["item"]
    assert genre["vocabulary"] == ["all", *(f"g{i}" for i in range(NUM_TOPICS))]
    codes = torch.tensor([[1 + genre["vocabulary"].index("g4"), 1 + genre["vocabulary"].index("all")]])
    program = torch.export.load(folder / "item_tower.pt2").module()
    with torch.no_grad():
        found = program(torch.zeros(1, 8), codes).numpy()[0]
    table = find_table(run.lake, run.stages["train"], "item_embeddings")
    vector = read_table(table, ["idx", "vector"], [("idx", "=", 59)])["vector"].to_pylist()[0]  # without train events
    np.testing.assert_allclose(found, vector, rtol=1e-4, atol=1e-5)


def test_the_item_tower_reads_neighbours(exported: dict[str, tuple[Run, Path]]) -> None:
    """Item 7 has no genre, item 59 no train events."""
    run, folder = exported["neighbours"]
    near = find_item_neighbours(settle(run).item, read_tower_data(run, find_inputs(run)), run.seed)
    assert near is not None
    schema = json.loads((folder / "schema.json").read_text())
    assert set(schema["item_tower"]) == {"id_vector", "neighbours", "visits"}
    vocabulary = schema["features"]["item"][0]["vocabulary"]
    codes = torch.tensor([[0, -1], [1 + vocabulary.index("g4"), 1 + vocabulary.index("all")]])
    neighbours, visits = (torch.from_numpy(a[[7, 59]]) for a in (near.items, near.visits))
    assert (neighbours[0] >= 0).all()
    assert (neighbours[1] < 0).all()
    program = torch.export.load(folder / "item_tower.pt2").module()
    with torch.no_grad():
        found = program(torch.zeros(2, 8), codes, neighbours.long(), visits.float()).numpy()
    table = find_table(run.lake, run.stages["train"], "item_embeddings")
    rows = read_table(table, ["idx", "vector"], [("idx", "in", [7, 59])]).sort_by("idx")
    np.testing.assert_allclose(found, np.array(rows["vector"].to_pylist()), rtol=1e-4, atol=1e-5)


def test_the_schema_says_how_a_score_is_made(exported: dict[str, tuple[Run, Path]]) -> None:
    run, folder = exported["light_gcn"]
    schema = json.loads((folder / "schema.json").read_text())
    assert schema["model_id"] == run.stages["train"].id
    assert schema["score"].startswith("cosine(user vector, vector of item_embeddings) + bias")
    assert "each once" in schema["user_tower"]["items"]
    assert sorted(path.name for path in folder.glob("*.pt2")) == ["user_tower.pt2"]


@pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed")
@pytest.mark.parametrize("name", ["attention", "neighbours"])
def test_onnx_is_written_and_compared_too(exported: dict[str, tuple[Run, Path]], name: str) -> None:
    assert sorted(p.name for p in exported[name][1].glob("*.onnx")) == ["item_tower.onnx", "user_tower.onnx"]


def test_a_program_that_differs_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "user_tower.pt2"
    path.write_bytes(b"")
    with pytest.raises(TrainingError, match=r"differs from the trained model by 0\.5 of its largest number"):
        towers._check(np.ones(2), np.full(2, 2.0), path)
    assert not path.exists()


def test_a_model_without_towers_is_refused(tmp_path: Path) -> None:
    run = plan_tiny(tmp_path, model={"kind": "spectral", "embedding_dim": 2})
    with pytest.raises(ConfigError, match=r"export --towers: model\.kind spectral has no towers"):
        towers.write_towers(run, tmp_path / "out")
