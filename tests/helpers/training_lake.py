"""A lake to train on: sessions (or walks over an edge list) that stay inside planted topics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.config import Run
from tests.helpers.tiny_lake import plan_tiny, rows_of, write_stage

NUM_TOPICS = 5
HALF_HOUR_US = 1_800_000_000
TRAINING = {
    "corpus": "sessions", "backend": "torch", "epochs": 2, "batch_sequences": 64, "num_lanes": 4, "num_threads": 1,
    "shared_negatives": 8, "checkpoint_steps": 5, "window": 3,
}  # fmt: skip
MEASURED = ("seconds", "tokens_per_second", "loader_share", "peak_memory_mb")
"""Counts of a training that differ from run to run."""


def plan_training(
    folder: Path,
    *,
    dim: int = 8,
    model: dict[str, Any] | None = None,
    sessions: dict[str, Any] | None = None,
    features: Sequence[dict[str, Any]] = (),
    valid: dict[str, Any] | None = None,
    evaluate: dict[str, Any] | None = None,
    **training: Any,
) -> Run:
    """A run that trains on sessions with small settings; ``training`` goes on top."""
    return plan_tiny(
        folder,
        model={"embedding_dim": dim, **(model or {})},
        training=TRAINING | training,
        sessions=sessions or {},
        features=features,
        split={"kind": "time", "cut": "2026-02-01", "valid": valid},
        graph=None,
        walks=None,
        evaluate=evaluate,
        baselines={"names": ["popularity"]},
        run={"seed": 7},
    )


def write_topic_sessions(
    run: Run, num_sessions: int = 640, num_items: int = 60, seed: int = 0, features: dict[str, Any] | None = None
) -> None:
    """Sessions of 2..12 items of one topic each (item i is of topic i % 5), one user a session.

    The last two items of the vocabulary are in no session: one has train events all the same, one has none. A history
    goes on with an item of the topic and the last one (valid), and with an item of the topic (test). The last user has
    no history. Events come every half hour, and weigh .5, 1, 8 and 0 in turn. ``features`` are columns of items.
    """
    sessions = topic_sequences(num_sessions, num_items - 2, seed)
    counts = np.bincount(np.concatenate(sessions), minlength=num_items)
    counts[-2] = 3
    items = [{"item_idx": i, "item_id": f"i{i}", "num_events": int(n), "active": True} for i, n in enumerate(counts)]
    users = [{"user_idx": u, "user_id": f"u{u}", "num_events": 1} for u in range(num_sessions + 1)]
    rows = [
        {"session_id": f"s{s}", "user_idx": s, "item_idx": items.tolist(), "split": "train"}
        for s, items in enumerate(sessions)
    ]
    rows.append({"session_id": "t", "user_idx": 0, "item_idx": [num_items - 1] * 2, "split": "test"})
    histories = [
        {"user_idx": u, "item_idx": [*items.tolist(), valid, num_items - 1, test],
         "ts": [(7 * u + place) * HALF_HOUR_US for place in range(len(items) + 3)],
         "weight": [[0.5, 1.0, 8.0, 0.0][(u + place) % 4] for place in range(len(items) + 3)],
         "num_train": len(items), "num_valid": 2, "num_context": 0}
        for u, items in enumerate(sessions)
        for valid, test in [[_find_next(items, u + later, num_items - 2) for later in (1, 0)]]
    ]  # fmt: skip
    histories.append(
        {
            "user_idx": num_sessions,
            "item_idx": [],
            "ts": [],
            "weight": [],
            "num_train": 0,
            "num_valid": 0,
            "num_context": 0,
        }
    )
    tables = {"items": items, "users": users, "sessions": rows, "user_histories": histories}
    more = {"items": features or {}}
    write_stage(run, "sessions", {name: rows_of(name, rows, **more.get(name, {})) for name, rows in tables.items()})


def _find_next(items: NDArray[np.int32], user: int, num_items: int) -> int:
    """An item of the same topic that is not among them, where there is one."""
    topic = int(items[0]) % NUM_TOPICS
    others = sorted(set(range(topic, num_items, NUM_TOPICS)) - set(items.tolist()))
    return others[user % len(others)] if others else topic


def topic_sequences(num_sequences: int, num_items: int, seed: int) -> list[NDArray[np.int32]]:
    """Sequences of 2..12 items, each of one topic."""
    random = np.random.default_rng(seed)
    sequences = []
    for _ in range(num_sequences):
        topic = random.integers(NUM_TOPICS)
        members = np.arange(topic, num_items, NUM_TOPICS)
        sequences.append(random.choice(members, random.integers(2, 13)).astype(np.int32))
    return sequences


def topic_purity(vectors: NDArray[np.float32], k: int = 5) -> float:
    """Share of the k nearest vectors (cosine) that are of the same topic; row i is of topic i % 5."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :k]
    return float((nearest % NUM_TOPICS == np.arange(len(vectors))[:, None] % NUM_TOPICS).mean())


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    """Column `vector` as float32 [n, dim]."""
    return np.array(table["vector"].to_pylist(), np.float32)
