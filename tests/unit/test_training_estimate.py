"""What a dry run says of a training: counted by hand, timed by what is nearest, nothing written."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recspark.config import Run
from recspark.errors import DataError, LakeError, TrainingError
from recspark.training.cpu_backend import CpuBackend
from recspark.training.estimate import _show_bytes, _show_time, describe_training
from recspark.training.job import train
from tests.helpers.ranks import ROOT
from tests.helpers.tiny_lake import plan_tiny
from tests.helpers.tower_lake import plan_towers
from tests.helpers.training_lake import plan_training, topic_sequences, write_topic_sessions

TOKENS = sum(map(len, topic_sequences(640, 58, 0)))


def describe(run: Run) -> dict[str, str]:
    """Title -> text; the first line under `head`."""
    head, *lines = describe_training(run).splitlines()
    return {"head": head} | {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_numbers_are_those_of_the_training_to_come(tmp_path: Path) -> None:
    run = plan_training(tmp_path, backend="cpu")
    write_topic_sessions(run)
    before = files_of(tmp_path)
    said = describe(run)
    assert said["head"] == "train: skip_gram by backend cpu on cpu, 1 process (training.backend asks for it)"
    assert said["parameters"] == f"60 items x 8: {2 * 60 * 9:,} numbers with their optimizer state"
    assert said["memory"] == "4.2 KiB of them a process; 2 checkpoints of 4.2 KiB"
    assert said["corpus"] == f"sessions at version 0: 640 sequences, {TOKENS:,} items an epoch"
    assert said["steps"] == "20 = 2 epochs of 10 batches of 64 sequences"
    assert said["estimate"].startswith("about 0 s at ")
    assert said["estimate"].endswith("items/s (tried on the first batches)")
    assert files_of(tmp_path) == before


def test_bytes_are_a_process_s_and_more_than_one_are_not_tried(tmp_path: Path) -> None:
    run = plan_training(tmp_path, num_processes=4)
    write_topic_sessions(run)
    said = describe(run)
    assert "backend torch on cpu, 4 processes" in said["head"]
    assert said["memory"] == "1.1 KiB of them a process; 2 checkpoints of 4.2 KiB"
    assert said["estimate"] == "none: this lake has no finished training by this backend to go by"


def test_a_mixture_is_counted_by_the_shares_of_its_corpora(tmp_path: Path) -> None:
    run = plan_training(tmp_path, backend="cpu", corpus={"sessions": 1, "histories": 0.5})
    write_topic_sessions(run)
    said = describe(run)
    # 1281 rows in 4 lanes of 320: 213 and 107 of each lane. Histories are counted by train events, 3 more than tokens.
    num_items = round(854 * TOKENS / 640 + 427 * (TOKENS + 3) / 641)
    assert said["corpus"] == (
        f"sessions at version 0 x 1, histories at version 0 x 0.5: 1,280 sequences, {num_items:,} items an epoch"
    )
    assert said["estimate"].endswith("items/s (tried on the first batches)")


def test_a_model_in_closed_form_has_no_steps_to_tell(tmp_path: Path) -> None:
    model = {"kind": "ppmi_svd", "embedding_dim": 8}
    run = plan_tiny(tmp_path, model=model, training={"num_processes": 4, "trackers": {"mlflow_experiment": "x"}})
    write_topic_sessions(run)
    assert describe(run) == {"head": "train: ppmi_svd in closed form, 60 items x 8, 1 process"}


def test_an_earlier_training_of_the_lake_gives_the_rate(tmp_path: Path) -> None:
    earlier = plan_training(tmp_path, backend="cpu", epochs=60)
    write_topic_sessions(earlier)
    train(earlier)
    said = describe(plan_training(tmp_path, backend="cpu", dim=16))
    assert f"as model {earlier.stages['train'].id} of this lake, by dimension" in said["estimate"]
    assert describe(plan_training(tmp_path, backend="torch", dim=16))["estimate"].endswith(
        "(tried on the first batches)"
    )


def test_a_training_that_was_stopped_is_timed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan_training(tmp_path, backend="cpu", checkpoint_steps=1)
    write_topic_sessions(run)
    plain, calls = CpuBackend.is_finite, iter(range(100))
    monkeypatch.setattr(CpuBackend, "is_finite", lambda self: next(calls) < 12 and plain(self))
    with pytest.raises(TrainingError, match="the checkpoint of step 12 stays"):
        train(run)
    said = describe(run)
    assert said["steps"].endswith("; goes on at step 12")
    assert said["estimate"].endswith("(as so far, by its checkpoint)")


def test_what_training_would_refuse_is_refused(tmp_path: Path) -> None:
    write_topic_sessions(plan_training(tmp_path))
    with pytest.raises(TrainingError, match=r"warmup_steps: 20, but the whole training has 20 steps"):
        describe(plan_training(tmp_path, warmup_steps=20))
    with pytest.raises(DataError, match=r"training.min_count: 0 of 60 items have 9000 train events"):
        describe(plan_training(tmp_path, min_count=9000, num_processes=2))


def test_a_warm_start_says_what_starts_from_what(tmp_path: Path) -> None:
    earlier = plan_training(tmp_path, backend="cpu")
    write_topic_sessions(earlier)
    train(earlier)
    start = {"model_id": earlier.stages["train"].id, "neighbours": False}
    said = describe(plan_training(tmp_path, backend="cpu", warm_start=start, min_count=4))
    counts = "58 known, 0 from_neighbours, 0 from_content, 0 fresh, 2 left_out"
    assert said["start"] == f"model {earlier.stages['train'].id}: {counts}"


def test_neighbours_of_items_are_counted(tmp_path: Path) -> None:
    run = plan_towers(tmp_path, "two_tower", {"item": {"neighbours": {"count": 4}}})
    write_topic_sessions(run)
    size, meanwhile = _show_bytes(12 * 60 * 4), _show_bytes(32 * (TOKENS + 3))
    said = describe(run)["neighbours"]
    assert said == f"4 an item: {size} a process, and up to {meanwhile} while they are looked for"
    assert "neighbours" not in describe(plan_towers(tmp_path, "two_tower"))


def test_without_inputs_the_message_is_the_training_s(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="run `recspark run CONF --to sessions` first"):
        describe_training(plan_training(tmp_path))


@pytest.mark.parametrize(
    ("values", "rate", "text"),
    [(1000, 100, "10 s at 100"), (60_000, 10, "100 min at 10"), (90_000, 10, "2.5 h at 10"), (-5, 10, "0 s at 10")],
)
def test_times_are_in_units_people_use(values: int, rate: float, text: str) -> None:
    assert _show_time(values, rate, "x") == f"about {text} items/s (x)"


@pytest.mark.parametrize(
    ("size", "text"), [(512, "512 bytes"), (1536, "1.5 KiB"), (3 * 2**40, "3.0 TiB"), (2**53, "8,192.0 TiB")]
)
def test_bytes_are_in_units_people_use(size: Any, text: str) -> None:
    assert _show_bytes(np.float64(size)) == text


def test_a_dry_run_of_the_chain_ends_with_what_training_takes(tmp_path: Path) -> None:
    run = plan_training(tmp_path, backend="cpu")
    write_topic_sessions(run)
    conf = tmp_path / "run.yaml"
    conf.write_text(yaml.safe_dump(run.config.model_dump(mode="json")))
    command = [sys.executable, "-m", "recspark.cli", "run", str(conf), "--from", "train", "--dry-run"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | run.to_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "to build: never built in this lake" in done.stdout
    assert "\n  steps        20 = 2 epochs of 10 batches of 64 sequences\n" in done.stdout
