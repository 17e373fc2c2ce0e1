"""Projector files: one line an item in both, by popularity, safe against tabs."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recspark.cli import app
from recspark.config import Run
from recspark.errors import ConfigError
from recspark.pipeline.projector import write_projector
from tests.helpers.tiny_lake import plan_tiny, write_embeddings, write_sessions


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = plan_tiny(tmp_path, evaluate=None)
    titles = ["red\tmug", "blue\nmug", None, "kettle"]
    write_sessions(run, [2, 9, 5, 9], [], f_title=titles, f_tags=[["a", "b"], [], None, ["c"]])
    write_embeddings(run, {0: [1.0, 2.0], 1: [0.5, -0.25], 3: [3.0, 1e-9]})
    return run


def test_items_stand_by_popularity_with_their_features(run: Run, tmp_path: Path) -> None:
    assert write_projector(run, tmp_path / "out", 10) == 3
    vectors = np.loadtxt(tmp_path / "out" / "vectors.tsv", delimiter="\t")
    np.testing.assert_allclose(vectors, [[0.5, -0.25], [3, 1e-9], [1, 2]])
    assert (tmp_path / "out" / "metadata.tsv").read_text().split("\n") == [
        "item_id\tnum_events\ttitle\ttags", "i1\t9\tblue mug\t", "i3\t9\tkettle\tc", "i0\t2\tred mug\ta, b", "",
    ]  # fmt: skip
    config = (tmp_path / "out" / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "vectors.tsv"' in config
    assert 'metadata_path: "metadata.tsv"' in config


def test_only_the_most_popular_are_written(run: Run, tmp_path: Path) -> None:
    assert write_projector(run, tmp_path / "out", 2) == 2
    assert len((tmp_path / "out" / "vectors.tsv").read_text().splitlines()) == 2
    assert len((tmp_path / "out" / "metadata.tsv").read_text().splitlines()) == 3


def test_the_command_needs_to_know_what() -> None:
    result = CliRunner().invoke(app, ["export", "conf/quickstart.yaml"])
    assert isinstance(result.exception, ConfigError)
    assert "say what to write: --projector, --vectors or --towers" in str(result.exception)


def test_the_command_writes_them(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recspark.pipeline.open_run.open_finished_run", lambda *_: run)
    result = CliRunner().invoke(app, ["export", "run.yaml", "--projector", "--to", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "3 items in" in result.output
    assert (tmp_path / "out" / "vectors.tsv").exists()
