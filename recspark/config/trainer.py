"""Sub-sections of `training` that are about the trainer itself."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from recspark.config.section import Section

NOT_IN_KEY = frozenset(
    {
        "num_processes",
        "num_threads",
        "max_restarts",
        "checkpoint_steps",
        "keep_checkpoints",
        "max_loss_ratio",
        "resume",
        "timeout_seconds",
        "trackers",
    }
)
"""Knobs of `training` that decide how it works, never what it yields."""


class TrackersConfig(Section):
    """Where metrics go besides metrics.jsonl, which always lies beside the checkpoints."""

    tensorboard: str | None = None
    """Local folder for TensorBoard event files, one below it a model; needs
    `pip install 'recspark[tensorboard]'`."""
    mlflow_experiment: str | None = None
    """MLflow experiment to log to; needs `pip install 'recspark[mlflow]'`, and MLFLOW_TRACKING_URI where the server is
    not local."""


class SlowMoConfig(Section):
    """SlowMo (Wang et al. 2020): ranks train apart for `period` steps, then average, with an outer momentum."""

    period: PositiveInt = 48
    """Steps between two averages."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Of the outer steps."""
    learning_rate: PositiveFloat = 1.0
    """Of the outer steps; 1 with momentum 0 is plain averaging."""


class TablesConfig(Section):
    """Optimizer of a tower model's vectors by id, which are spread over the ranks, one owner a row. Skip-gram's have
    row-wise Adagrad and take none of these knobs."""

    optimizer: Literal["adam", "adagrad"] = "adam"
    """adam: with one second moment a row, for rows that a batch touches. adagrad: row-wise, a number a row as state
    instead of embedding_dim more."""
    second_moment: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Of adam: how much of a row's second moment a step keeps."""
    weight_decay: NonNegativeFloat = 0.0
    """Added to the gradient of touched rows, times the row."""


class DenseConfig(Section):
    """Optimizer of parameters that every rank holds whole (towers): AdamW. Embedding tables, which are spread over the
    ranks, have one of their own; a model that is tables alone takes none of these knobs."""

    learning_rate: PositiveFloat = 0.003
    """At its highest; follows the same schedule as `training.learning_rate`, which is the tables'."""
    state: Literal["float32", "bfloat16"] = "float32"
    """Precision of the moments; bfloat16 saves 4 bytes a parameter (AnyPrecision AdamW; its Kahan summation is for
    bfloat16 parameters, and all of ours are float32, so it does not run)."""
    weight_decay: NonNegativeFloat = 0.0
    """Of AdamW."""
    slowmo: SlowMoConfig | None = None
    """Average parameters now and then instead of gradients at every step; off by default."""
