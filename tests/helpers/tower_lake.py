"""A run of a tower model on the topics of `training_lake`, with small settings."""

from pathlib import Path
from typing import Any

from recspark.config import Run
from tests.helpers.tiny_lake import plan_tiny

TRAINING = {
    "epochs": 3,
    "batch_sequences": 64,
    "num_lanes": 4,
    "num_threads": 1,
    "checkpoint_steps": 7,
}  # 10 steps each


def plan_towers(
    folder: Path,
    kind: str,
    towers: dict[str, Any] | None = None,
    *,
    features: Any = (),
    valid: Any = None,
    **model: Any,
) -> Run:
    """A run on an empty lake; ``model`` goes on top, ``training`` in it on top of section `training`."""
    training = TRAINING | model.pop("training", {})
    return plan_tiny(
        folder,
        model={"kind": kind, "embedding_dim": 8, "towers": towers or {}} | model,
        training=training,
        features=features,
        split={"kind": "time", "cut": "2026-02-01", "valid": valid},
        baselines={"names": ["popularity"]},
        evaluate={"ks": [5]},
        run={"seed": 7},
    )
