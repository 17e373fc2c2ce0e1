"""TensorBoard files are read back; MLflow is stood in for by a module that notes the calls."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from recspark.config.trainer import TrackersConfig
from recspark.errors import SetupError
from recspark.training.trackers import check_trackers, close_all, flatten, log_to, open_trackers


@pytest.mark.parametrize(("knob", "package"), [("tensorboard", "tensorboard"), ("mlflow_experiment", "mlflow")])
def test_what_is_not_installed_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, knob: str, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SetupError, match=rf"trackers.{knob} is 'here', but {package} is not .* pip install 'recspark\["
    ):
        check_trackers(TrackersConfig(**{knob: "here"}))
    check_trackers(TrackersConfig())


@pytest.mark.parametrize("kind", ["nowhere", "a file", "not ours"])
def test_a_folder_that_cannot_be_used_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    folder = "/proc/nope" if kind == "nowhere" else str(tmp_path / "runs")
    if kind == "a file":
        Path(folder).write_text("")
    if kind == "not ours":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SetupError, match=rf"trackers.tensorboard is '{folder}', which cannot .* or leave the knob out"):
        check_trackers(TrackersConfig(tensorboard=folder))


def test_the_folder_of_event_files_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for _ in range(2):
        check_trackers(TrackersConfig(tensorboard=str(tmp_path / "a" / "runs")))
    assert (tmp_path / "a" / "runs").is_dir()


class Failing:
    """A tracker that takes nothing, or cannot be closed."""

    name = "failing"

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def log(self, step: int, values: dict[str, float]) -> None:
        self.calls += 1
        raise self.error

    def close(self, is_finished: bool) -> None:
        raise self.error


def test_a_tracker_that_cannot_be_closed_is_only_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    close_all([Failing(OSError(28, "No space left on device"))], is_finished=True)
    assert "warning: failing failed" in capsys.readouterr().err


def test_a_server_that_is_not_there_leaves_the_other_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="optional extra: pip install 'recspark[tensorboard]'")
    mlflow = NotedMlflow()
    monkeypatch.setattr(mlflow, "set_experiment", Failing(ConnectionError("refused\nby all")).close)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    config = TrackersConfig(tensorboard=str(tmp_path), mlflow_experiment="recs")
    opened = open_trackers(config, "abc", {}, 0)
    assert [tracker.name for tracker in opened] == ["training.trackers.tensorboard"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "warning: training.trackers.mlflow_experiment failed" in line
    assert "has them all: refused" in line
    assert log_to(opened, 1, {"loss": 1.0}) == opened
    close_all(opened, is_finished=True)


def test_none_are_opened_by_default() -> None:
    assert open_trackers(TrackersConfig(), "abc", {}, 0) == []


def test_tensorboard_shows_a_resumed_training_once(tmp_path: Any) -> None:
    pytest.importorskip("tensorboard", reason="optional extra: pip install 'recspark[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrackersConfig(tensorboard=str(tmp_path))
    for first_step, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # killed after 3, the checkpoint was of 2
        (tracker,) = open_trackers(config, "abc", {}, first_step)
        for step in steps:
            tracker.log(step, {"loss": step / 10 + first_step})
        tracker.close(is_finished=False)
    found = EventAccumulator(str(tmp_path / "abc")).Reload().Scalars("train/loss")
    assert [(event.step, pytest.approx(event.value)) for event in found] == [(1, 0.1), (2, 0.2), (3, 2.3), (4, 2.4)]


class NotedMlflow(ModuleType):
    """Notes its calls; knows one run a tag once it was started."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[Any] = []
        self.runs: list[str] = []

    def set_experiment(self, name: str) -> None:
        self.calls.append(("experiment", name))

    def search_runs(self, filter_string: str, **_: Any) -> list[Any]:
        return [SimpleNamespace(info=SimpleNamespace(run_id="run-1"))] if filter_string in self.runs else []

    def start_run(self, run_id: str | None = None, run_name: str = "", tags: dict[str, str] | None = None) -> None:
        self.calls.append(("start", run_id or run_name))
        self.runs += [f"tags.{name} = '{value}'" for name, value in (tags or {}).items()]

    def log_params(self, params: dict[str, Any]) -> None:
        self.calls.append(("params", params))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("metrics", step, values))

    def end_run(self, status: str) -> None:
        self.calls.append(("end", status))


def test_mlflow_goes_on_in_the_run_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = NotedMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for is_finished in (False, True):
        (tracker,) = open_trackers(TrackersConfig(mlflow_experiment="recs"), "abc", {"model": {"dim": 8}}, 0)
        tracker.log(5, {"loss": 0.5})
        tracker.close(is_finished)
    first = [("experiment", "recs"), ("start", "abc"), ("params", {"model.dim": 8})]
    second = [("experiment", "recs"), ("start", "run-1")]
    logged = ("metrics", 5, {"loss": 0.5})
    assert mlflow.calls == [*first, logged, ("end", "KILLED"), *second, logged, ("end", "FINISHED")]


def test_settings_are_flattened() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": None}) == {"a.b": 1, "a.c.d": 2, "e": None}
