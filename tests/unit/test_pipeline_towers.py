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
from recspark.evaluate.ragged import Ragged
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table, read_table
from recspark.pipeline import towers
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
    "light_gcn": ("light_gcn", {}),
    "mf": ("mf", {}),
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
    program = torch.export.load(folder / "user_tower.pt2").module()
    for users in ([-1, -1, -1], [3, 0, -1]):
        if name == "mf":
            users = [-1, -1, -1]  # others take their row of user_embeddings
        expected = encoder.encode(Ragged.from_rows(rows), np.array(users))
        with torch.no_grad():
            found = program(padded, torch.tensor(users)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


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
