"""What would stop a run hours later is told at its start, by dry run and run alike."""

import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import yaml

from recspark.config import Run
from recspark.errors import RecsparkError, SetupError, TrainingError
from recspark.pipeline.evaluate_stage import evaluate
from recspark.pipeline.limits import check_training
from recspark.pipeline.plan import find_states
from recspark.training.job import train
from tests.helpers.ranks import ROOT
from tests.helpers.tiny_lake import plan_tiny, write_sessions
from tests.helpers.training_lake import plan_training, write_topic_sessions

MODEL_ID = "0123456789ab"
VALID = {"kind": "user_share"}


def check(run: Run, *names: str) -> None:
    check_training(run, find_states(run, names or list(run.stages)))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"warm_start": {"model_id": MODEL_ID, "neighbours": False}}, "no model 0123456789ab in .*; there is none yet"),
        ({"resume": "required"}, "training.resume is required, but .* has no checkpoint yet"),
    ],
)
def test_nothing_is_started_for_a_training_that_cannot_go_on(tmp_path: Path, training: Any, message: str) -> None:
    run = plan_training(tmp_path, **training)
    with pytest.raises(TrainingError, match=message):
        check(run)
    check(run, "ingest", "sessions")
    assert not list(tmp_path.rglob("*"))


def test_nothing_is_started_without_a_tracker_s_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="mlflow is not installed"):
        check(plan_training(tmp_path, trackers={"mlflow_experiment": "x"}))
    check(plan_tiny(tmp_path, model={"kind": "ppmi_svd"}, training={"trackers": {"mlflow_experiment": "x"}}))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished training without a validation slice."""
    run = plan_training(tmp_path_factory.mktemp("earlier"), backend="cpu")
    write_topic_sessions(run)
    train(run)
    return run


def start_from(earlier: Run) -> dict[str, Any]:
    return {"warm_start": {"model_id": earlier.stages["train"].id, "lake": earlier.lake, "neighbours": False}}


def test_a_model_of_another_dimension_is_told_before_there_are_inputs(earlier: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"has vectors of 8 floats, model.embedding_dim is 16; set it to 8"):
        check(plan_training(tmp_path, dim=16, **start_from(earlier)))
    check(plan_training(tmp_path, **start_from(earlier)))


def test_a_model_that_is_published_needs_nothing_more(earlier: Run, tmp_path: Path) -> None:
    run = plan_training(tmp_path, backend="cpu", resume="required")
    with pytest.raises(TrainingError, match="no checkpoint yet"):
        check(run)
    check(plan_training(Path(earlier.lake).parent, backend="cpu", resume="required"))


def test_a_trained_model_is_not_scored_on_what_it_may_have_learned(earlier: Run, tmp_path: Path) -> None:
    """The training was checked under another evaluation: what scores a model is no part of its key."""
    plain = plan_training(tmp_path, valid=VALID, backend="cpu", evaluate={}, **start_from(earlier))
    write_topic_sessions(plain)
    train(plain)
    check(plain, "train", "evaluate")
    scored = plan_training(tmp_path, valid=VALID, backend="cpu", evaluate={"split": "valid"}, **start_from(earlier))
    assert scored.stages["train"].key == plain.stages["train"].key
    for refuses in (lambda run: check(run, "evaluate"), evaluate):
        with pytest.raises(TrainingError, match=r"with split.valid None, .* \(evaluate.split: valid\)"):
            refuses(scored)


def plan_walks(folder: Path, **training: Any) -> Run:
    """4 walks of each item in batches of 8, 2 epochs."""
    settings = {"epochs": 2, "batch_sequences": 8, "num_lanes": 1, **training}
    return plan_tiny(folder, walks={"num_walks": 4}, training=settings)


def test_warming_up_is_compared_with_the_walks_of_all_items(tmp_path: Path) -> None:
    check(plan_walks(tmp_path, warmup_steps=6))  # nobody knows how many items there will be
    write_sessions(plan_walks(tmp_path), [3, 2, 1, 1, 1, 0], [])
    check(plan_walks(tmp_path, warmup_steps=5))
    with pytest.raises(TrainingError) as caught:
        check(plan_walks(tmp_path, warmup_steps=6))
    assert str(caught.value) == (
        "training.warmup_steps: 6, but the whole training has at most 6 steps (5 items x 4 walks, 2 epochs, "
        "training.batch_sequences 8); lower it"
    )
    source = {"kind": "synthetic", "synthetic": {"num_items": 1000}}
    generated = plan_tiny(tmp_path / "other", source=source, training={"warmup_steps": 50})
    with pytest.raises(TrainingError, match=r"at most 50 steps \(1,000 items x 10 walks, 5 epochs"):
        check(generated)


def run_cli(run: Run, *words: str) -> "subprocess.CompletedProcess[str]":
    conf = Path(run.lake).parent / "run.yaml"
    conf.write_text(yaml.safe_dump(run.config.model_dump(mode="json")))
    return subprocess.run(
        [sys.executable, "-m", "recspark.cli", "run", str(conf), *words], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | run.to_environment(), timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("words", [("--dry-run",), ()])
def test_the_command_ends_with_2_before_anything_is_started(earlier: Run, tmp_path: Path, words: tuple[str]) -> None:
    done = run_cli(plan_training(tmp_path, dim=16, **start_from(earlier)), *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: training.warm_start: model ")
    assert "set it to 8" in done.stderr
    assert not Path(tmp_path, "lake").exists()


def test_a_dry_run_ends_as_the_training_would(tmp_path: Path) -> None:
    """Known once there are inputs: sessions are 10 batches an epoch."""
    run = plan_training(tmp_path, backend="cpu", warmup_steps=20)
    write_topic_sessions(run)
    done = run_cli(run, "--from", "train", "--dry-run")
    assert done.returncode == 2
    assert "to build: never built in this lake" in done.stdout
    assert done.stderr == (
        "error: train: training.warmup_steps: 20, but the whole training has 20 steps (2 epochs of 10); lower it\n"
    )
    with pytest.raises(RecsparkError, match="the whole training has 20 steps"):
        train(run)
