"""LATEST names only whole checkpoints of the same training."""

import json
from pathlib import Path
from typing import Any

import pytest

from recspark.config import Run
from recspark.errors import TrainingError
from recspark.training.checkpoint import Checkpoints, check_resume, checkpoint_uri
from recspark.training.world import World
from tests.helpers.training_lake import plan_training

FACTS = {"backend": "cpu", "tables": {"sessions": 3, "items": 1}}


class Written:
    """A backend whose state is one file."""

    name = "cpu"

    def __init__(self, content: str = "") -> None:
        self.content = content

    def save(self, folder: str) -> None:
        Path(folder, "state").write_text(self.content)

    def load(self, folder: str) -> None:
        self.content = Path(folder, "state").read_text()


def open_checkpoints(folder: Path, keep: int = 2, **facts: Any) -> Checkpoints:
    return Checkpoints(str(folder), keep, FACTS | facts)


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save({"step": step}, step, Written(f"state of {step}"), World())  # type: ignore[arg-type]


def test_the_latest_comes_back_and_older_ones_go(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    assert checkpoints.find_latest() is None
    for step in (5, 10, 15):
        save(checkpoints, step)
    latest = open_checkpoints(tmp_path).find_latest()
    assert latest is not None
    assert latest["state"] == {"step": 15}
    backend = Written()
    checkpoints.load(latest, backend)  # type: ignore[arg-type]
    assert backend.content == "state of 15"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["LATEST", "step-0000010", "step-0000015"]


def test_a_folder_that_never_became_whole_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    save(checkpoints, 5)
    (tmp_path / "step-0000010").mkdir()
    (tmp_path / "step-0000010" / "half").write_text("x")
    latest = checkpoints.find_latest()
    assert latest is not None
    assert latest["folder"] == "step-0000005"
    save(checkpoints, 10)
    assert [p.name for p in (tmp_path / "step-0000010").iterdir()] == ["state"]
    (tmp_path / "step-0000020").mkdir()
    save(checkpoints, 15)
    assert not (tmp_path / "step-0000020").exists()


def test_every_difference_is_listed(tmp_path: Path) -> None:
    save(open_checkpoints(tmp_path), 5)
    changed = open_checkpoints(tmp_path, backend="torch", tables={"sessions": 4, "items": 1}, num_items=7)
    with pytest.raises(TrainingError) as caught:
        changed.find_latest()
    assert str(caught.value).splitlines() == [
        f"{tmp_path}: cannot resume, the checkpoint was made from something else:",
        "  backend: the checkpoint has cpu, this run has torch",
        "  num_items: the checkpoint has None, this run has 7",
        "  tables.sessions: the checkpoint has 3, this run has 4",
        f"undo the change, or remove {tmp_path} to train from the start",
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "step-0000005/state: missing, but LATEST lists it; remove"),
        (lambda file: file.write_text("x"), "step-0000005/state: 1 bytes, LATEST says 10; remove"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: Any, message: str) -> None:
    save(open_checkpoints(tmp_path), 5)
    damage(tmp_path / "step-0000005" / "state")
    with pytest.raises(TrainingError, match=message):
        open_checkpoints(tmp_path).find_latest()


def test_a_latest_that_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "LATEST").write_text("step-5")
    with pytest.raises(TrainingError, match="LATEST: not a checkpoint record"):
        open_checkpoints(tmp_path).find_latest()


def test_metrics_beyond_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.write_metrics([{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}])
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][1]["loss"] == 2.0
    assert checkpoints.read_metrics(1) == [{"step": 1, "loss": 2.5}]


def stop_training(run: Run) -> None:
    """Leaves a checkpoint of its first step, as a training that was stopped."""
    facts = {"num_steps": 20, "config": run.stages["train"].sections, "tables": {"items": 3}}
    save(Checkpoints(checkpoint_uri(run), 2, facts), 1)


def test_a_required_resume_is_checked_before_there_are_inputs(tmp_path: Path) -> None:
    check_resume(plan_training(tmp_path))
    run = plan_training(tmp_path, resume="required")
    with pytest.raises(
        TrainingError, match="has no checkpoint yet, and there is no unfinished training beside it; set"
    ):
        check_resume(run)
    stop_training(plan_training(tmp_path, window=2))
    with pytest.raises(TrainingError) as caught:
        check_resume(run)
    where, *differences, advice = str(caught.value).splitlines()
    assert f"{checkpoint_uri(run)}: no checkpoint; that of step 1 in " in where
    assert differences == ["  config.training.window: the checkpoint has 2, this run has 3"]
    assert advice.startswith("undo the change to go on from it")
    stop_training(plan_training(tmp_path, resume="required", sessions={"gap_seconds": 60}))
    with pytest.raises(
        TrainingError, match="another training:\n  its source, or a stage that it reads, is another one"
    ):
        check_resume(run)
    stop_training(run)
    check_resume(run)
