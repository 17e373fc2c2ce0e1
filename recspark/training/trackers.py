"""Where a training's metrics can be watched, besides metrics.jsonl: TensorBoard event files, an MLflow server.

    training.trackers.tensorboard=runs         tensorboard --logdir runs     event files in runs/<model_id>
    training.trackers.mlflow_experiment=recs   a run named <model_id>; the server is MLFLOW_TRACKING_URI's

Neither is needed to train: each is imported only where the config asks for it, and one that fails is named in a
warning and dropped.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from recspark.config.trainer import TrackersConfig
from recspark.errors import SetupError, first_line
from recspark.logs import log

_MODEL_TAG = "recspark_model_id"


class Tracker(Protocol):
    """A place that metrics go to."""

    name: str
    """What a warning calls it."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of a step."""

    def close(self, is_finished: bool) -> None:
        """Writes what is left; says whether training came to its end or goes on some other time."""


def check_trackers(config: TrackersConfig) -> None:
    """Checks, before anything is spent, that what the config asks for is installed, and makes TensorBoard's folder.

    Raises: SetupError.
    """
    wanted = {
        "tensorboard": ("tensorboard", config.tensorboard),
        "mlflow": ("mlflow_experiment", config.mlflow_experiment),
    }
    for package, (knob, value) in wanted.items():
        if value is not None and importlib.util.find_spec(package) is None:
            raise SetupError(
                f"training.trackers.{knob} is {value!r}, but {package} is not installed; pip install "
                f"'recspark[{package}]', or leave the knob out: metrics.jsonl beside the checkpoints is always written"
            )
    if config.tensorboard is not None:
        _make_folder(config.tensorboard)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("it cannot be written to")
    except OSError as error:
        raise SetupError(
            f"training.trackers.tensorboard is {folder!r}, which cannot be used as a folder for event files "
            f"({error.strerror or error}); name one that can be made and written, or leave the knob out: metrics.jsonl "
            f"beside the checkpoints is always written"
        ) from error


def open_trackers(config: TrackersConfig, model_id: str, settings: dict[str, Any], first_step: int) -> list[Tracker]:
    """Those that the config asks for and that can be opened; ``first_step`` is where training starts or goes on."""
    trackers: list[Tracker] = []
    if config.tensorboard is not None:
        folder = os.path.join(config.tensorboard, model_id)
        _try(TensorBoardTracker.name, lambda: trackers.append(TensorBoardTracker(folder, first_step)))
    if config.mlflow_experiment is not None:
        experiment = config.mlflow_experiment
        _try(MlflowTracker.name, lambda: trackers.append(MlflowTracker(experiment, model_id, settings)))
    return trackers


def log_to(trackers: Sequence[Tracker], step: int, values: dict[str, float]) -> list[Tracker]:
    """Tells the trackers the metrics of a step; those that took them."""
    return [tracker for tracker in trackers if _try(tracker.name, partial(tracker.log, step, values))]


def close_all(trackers: Sequence[Tracker], is_finished: bool) -> None:
    """Closes the trackers; an error that is on its way stays the one that is told."""
    for tracker in trackers:
        _try(tracker.name, partial(tracker.close, is_finished))


def _try(name: str, call: Callable[[], None]) -> bool:
    """Whether a call to a tracker succeeds; a warning says why not. A tracker's libraries raise whatever they like."""
    try:
        call()
    except Exception as error:
        cause = first_line(error)
        log("train", f"warning: {name} failed and gets no more metrics, metrics.jsonl has them all: {cause}")
        return False
    return True


class TensorBoardTracker:
    """Event files of one model; on a resume TensorBoard hides the steps that are done again."""

    name = "training.trackers.tensorboard"

    def __init__(self, folder: str, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder, purge_step=first_step + 1 if first_step else None)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One scalar a metric, called `train/<name>`."""
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self, is_finished: bool) -> None:
        """Writes what is left."""
        self._writer.close()


class MlflowTracker:
    """One MLflow run a model: a resumed training goes on in the run it began in."""

    name = "training.trackers.mlflow_experiment"

    def __init__(self, experiment: str, model_id: str, settings: dict[str, Any]) -> None:
        # By default MLflow tries for minutes to reach a server that does not answer, while the other ranks wait.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(experiment)
        found = mlflow.search_runs(
            filter_string=f"tags.{_MODEL_TAG} = '{model_id}'", max_results=1, output_format="list"
        )
        if found:
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=model_id, tags={_MODEL_TAG: model_id})
            mlflow.log_params(flatten(settings))

    def log(self, step: int, values: dict[str, float]) -> None:
        """The metrics of a step."""
        self._mlflow.log_metrics(values, step=step)

    def close(self, is_finished: bool) -> None:
        """Ends the run, as finished or as killed."""
        self._mlflow.end_run("FINISHED" if is_finished else "KILLED")


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
