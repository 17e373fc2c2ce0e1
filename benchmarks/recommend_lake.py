"""A lake with a model and many users, written without Spark or training: what `recommend` lists items from."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from recspark.config import Run, RunConfig, plan_run
from recspark.contracts.stages import SESSIONS, TRAIN
from recspark.contracts.tables import TABLES
from recspark.index.job import build_index
from recspark.lake.arrow import write_table

DIM = 64
EVENTS = 30
"""Of a user, on average."""
_TOPICS = 200
_SHARE = 0.7
"""Of a user's events that are on his topic."""


def plan_lake(folder: Path, k: int, search: str) -> Run:
    """The run whose lists are made."""
    config = {
        "paths": {"lake": str(folder / "lake")},
        "split": {"kind": "time", "cut": "2026-01-01"},
        "model": {"embedding_dim": DIM},
        "evaluate": None,
        "recommend": {"k": k, "search": search},
    }
    return plan_run(RunConfig.model_validate(config), {"fingerprint": "recommend"})


def write_lake(run: Run, num_users: int, num_items: int) -> None:
    """Items and users of topics, vectors around the topics' centres, and the index that the plan picks."""
    random = np.random.default_rng(0)
    topics = random.integers(0, _TOPICS, num_items)
    tables = {"items": _items(num_items), "users": _users(num_users)}
    tables["user_histories"] = _histories(random, topics, num_users)
    versions: dict[str, int] = {}
    for name in SESSIONS.tables:
        is_marker = name == SESSIONS.marker
        record = run.record("sessions", is_marker=is_marker, tables=versions if is_marker else {})
        versions[name] = write_table(
            run.lake, TABLES[name], tables.get(name, TABLES[name].schema.empty_table()), record
        )
    _write_vectors(run, random, topics)
    build_index(run)


def _items(num_items: int) -> pa.Table:
    idx = np.arange(num_items)
    columns = {"item_idx": idx, "item_id": [f"i{i:07}" for i in idx], "num_events": idx[::-1] + 1}
    return _fit("items", columns | {"first_seen": pa.nulls(num_items), "active": np.ones(num_items, np.bool_)})


def _users(num_users: int) -> pa.Table:
    idx = np.arange(num_users)
    return _fit("users", {"user_idx": idx, "user_id": [f"u{u:09}" for u in idx], "num_events": idx * 0 + EVENTS})


def _histories(random: np.random.Generator, topics: np.ndarray, num_users: int) -> pa.Table:
    """Between half and one and a half times `EVENTS` a user, most of them on one topic."""
    lengths = random.integers(EVENTS // 2, EVENTS * 3 // 2, num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    by_topic = np.argsort(topics, kind="stable")
    starts = np.searchsorted(topics[by_topic], np.arange(_TOPICS + 1))
    wanted = np.repeat(random.integers(0, _TOPICS, num_users), lengths)
    drawn = starts[wanted] + (random.random(len(wanted)) * (starts[wanted + 1] - starts[wanted])).astype(np.int64)
    anywhere = random.integers(0, len(topics), len(wanted))
    items = np.where(random.random(len(wanted)) < _SHARE, by_topic[np.minimum(drawn, len(topics) - 1)], anywhere)
    flat = {
        "item_idx": items.astype(np.int32),
        "ts": np.arange(len(items)),
        "weight": np.ones(len(items), np.float32),
        "event_type": np.zeros(len(items), np.int8),
    }
    lists = {name: pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)) for name, values in flat.items()}
    none = np.zeros(num_users, np.int32)
    counts = {"num_train": lengths, "num_valid": none, "num_context": none}
    return _fit("user_histories", {"user_idx": np.arange(num_users), **lists, **counts})


def _write_vectors(run: Run, random: np.random.Generator, topics: np.ndarray) -> None:
    model_id = run.stages["train"].id
    vectors = random.normal(size=(_TOPICS, DIM))[topics] + 0.7 * random.normal(size=(len(topics), DIM))
    flat = pa.array(vectors.astype(np.float32).ravel())
    columns = {
        "idx": np.arange(len(topics)),
        "id": [f"i{i:07}" for i in range(len(topics))],
        "vector": pa.FixedSizeListArray.from_arrays(flat, DIM).cast(pa.list_(pa.float32())),
        "query_vector": pa.nulls(len(topics)),
        "bias": np.zeros(len(topics), np.float32),
        "model_id": pa.repeat(model_id, len(topics)),
    }
    facts = {"metric": "cosine", "embedding_dim": DIM, "model_id": model_id}
    users = TABLES["user_embeddings"].schema.empty_table()
    version = write_table(run.lake, TABLES["user_embeddings"], users, run.record("train", is_marker=False))
    record = run.record("train", is_marker=True, tables={TRAIN.tables[0]: version}, facts=facts)
    write_table(run.lake, TABLES["item_embeddings"], _fit("item_embeddings", columns), record)


def _fit(name: str, columns: dict[str, object]) -> pa.Table:
    return pa.table(columns).select(TABLES[name].schema.names).cast(TABLES[name].schema)
