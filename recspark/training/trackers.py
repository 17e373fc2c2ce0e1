"""Where a training's metrics can be watched, besides metrics.jsonl: TensorBoard event files, an MLflow server.

    training.trackers.tensorboard=runs         tensorboard --logdir runs     event files in runs/<model_id>
    training.trackers.mlflow_experiment=recs   a run named <model_id>; the server is MLFLOW_TRACKING_URI's

Neither is needed to train; each is imported only where the config asks for it.
"""

import importlib.util
import os
from typing import Any, Protocol

from recspark.config.trainer import TrackersConfig
from recspark.errors import SetupError

_MODEL_TAG = "recspark_model_id"


class Tracker(Protocol):
    """A place that metrics go to."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Takes the metrics of a step."""

    def close(self, is_finished: bool) -> None:
        """Writes what is left; says whether training came to its end or goes on some other time."""


def check_trackers(config: TrackersConfig) -> None:
    """Checks, before anything is spent, that what the config asks for is installed.

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


def open_trackers(config: TrackersConfig, model_id: str, settings: dict[str, Any], first_step: int) -> list[Tracker]:
    """The trackers that the config asks for; ``first_step`` is where training starts or goes on."""
    trackers: list[Tracker] = []
    if config.tensorboard is not None:
        trackers.append(TensorBoardTracker(os.path.join(config.tensorboard, model_id), first_step))
    if config.mlflow_experiment is not None:
        trackers.append(MlflowTracker(config.mlflow_experiment, model_id, settings))
    return trackers


class TensorBoardTracker:
    """Event files of one model; on a resume TensorBoard hides the steps that are done again."""

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

    def __init__(self, experiment: str, model_id: str, settings: dict[str, Any]) -> None:
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
