"""Sub-sections of `training` that are about the trainer itself."""

from recspark.config.section import Section


class TrackersConfig(Section):
    """Where metrics go besides metrics.jsonl, which always lies beside the checkpoints."""

    tensorboard: str | None = None
    """Local folder for TensorBoard event files, one below it a model; needs the package tensorboard."""
    mlflow_experiment: str | None = None
    """MLflow experiment to log to; needs the package mlflow, and MLFLOW_TRACKING_URI where the server is not local."""
