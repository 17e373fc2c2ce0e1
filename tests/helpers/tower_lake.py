"""A run of a tower model on the topics of `training_lake`, with small settings."""

from pathlib import Path
from typing import Any

import numpy as np

from recspark.config import Run
from recspark.lake.arrow import find_table, read_table
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage
from tests.helpers.training_lake import NUM_TOPICS

TRAINING = {
    "epochs": 3,
    "batch_sequences": 64,
    "num_lanes": 4,
    "num_threads": 1,
    "checkpoint_steps": 7,
}  # 10 steps each
SKIPS = {"event_types": ["skip"]}
"""Section `negatives.explicit`, by the events that `write_skips` writes."""
_COLUMNS = {"ts": "ts", "event_type": "type", "weight": "weight"}


def plan_towers(
    folder: Path,
    kind: str,
    towers: dict[str, Any] | None = None,
    *,
    features: Any = (),
    valid: Any = None,
    sections: Any = None,
    **model: Any,
) -> Run:
    """A run on an empty lake; ``model`` goes on top, ``training`` in it on top of section `training`, ``sections`` on
    top of all. Events of type `skip` are no history.
    """
    training = TRAINING | model.pop("training", {})
    values = {
        "model": {"kind": kind, "embedding_dim": 8, "towers": towers or {}} | model,
        "training": training,
        "features": features,
        "split": {"kind": "time", "cut": "2026-02-01", "valid": valid},
        "baselines": {"names": ["popularity"]},
        "evaluate": {"ks": [5]},
        "run": {"seed": 7},
        "source": {"kind": "files", "path": "events.csv", "format": "csv", "columns": _COLUMNS},
        "clean": {"event_weights": {"skip": 0}},
    }
    return plan_tiny(folder, **values | (sections or {}))


def write_skips(run: Run, num_items: int = 58) -> None:
    """Each user of `write_topic_sessions` skips three items of his own topic that he never took, in train times."""
    rows = []
    histories = read_table(find_table(run.lake, run.stages["sessions"], "user_histories")).sort_by("user_idx")
    for row in histories.to_pylist():
        if row["num_train"]:
            topic = row["item_idx"][0] % NUM_TOPICS
            others = [i for i in range(topic, num_items, NUM_TOPICS) if i not in row["item_idx"]]
            random = np.random.default_rng(row["user_idx"])
            items = random.choice(others, min(3, len(others)), replace=False).tolist()
            same = {"ts": list(range(len(items))), "event_type": [0] * len(items)}
            rows.append({"user_idx": row["user_idx"], "item_idx": items, **same})
    inputs = dict.fromkeys(("events", "users", "items", "user_histories"), 0)
    tables = {"user_negatives": rows_of("user_negatives", rows)}
    write_stage(run, "negatives", tables, inputs=inputs, facts={"event_types": ["skip"]})
