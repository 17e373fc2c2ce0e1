"""Lakes of a few rows, written stage by stage without Spark or torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recspark.config import Run, RunConfig, plan_run
from recspark.contracts.tables import TABLES
from recspark.lake.arrow import write_table

Parts = tuple[list[int], list[int], list[int], list[int]]
"""A user's train, valid, context and test items."""


def plan_tiny(folder: Path, **sections: Any) -> Run:
    """A run on an empty lake; ``sections`` go on top of a minimal config."""
    values: dict[str, Any] = {
        "paths": {"lake": str(folder / "lake")},
        "source": {"kind": "files", "path": "events.csv", "format": "csv", "columns": {"ts": "ts"}},
        "split": {"kind": "time", "cut": "2026-02-01"},
        "model": {"embedding_dim": 2},
        "index": None,
        "evaluate": {"ks": [1, 2, 3]},
    }
    return plan_run(RunConfig.model_validate(values | sections), {"fingerprint": "tiny"})


def write_stage(run: Run, stage: str, tables: dict[str, pa.Table], **record: Any) -> None:
    """Commits a stage's tables in their contract's order, the marker last; those not given are empty."""
    spec = run.stages[stage].spec
    versions: dict[str, int] = {}
    for name in spec.tables:
        data = tables.get(name)
        is_marker = name == spec.marker
        rows = TABLES[name].schema.empty_table() if data is None else data
        more = {"tables": versions, **record} if is_marker else {}
        versions[name] = write_table(run.lake, TABLES[name], rows, run.record(stage, is_marker=is_marker, **more))


def rows_of(name: str, rows: list[dict[str, Any]], **features: list[Any]) -> pa.Table:
    """Rows of a table of ours; missing columns are NULL, ``features`` are columns of their own."""
    table = pa.Table.from_pylist(rows, schema=TABLES[name].schema)
    for feature, values in features.items():
        table = table.append_column(feature, pa.array(values))
    return table


def write_sessions(
    run: Run,
    num_events: list[int],
    users: list[Parts],
    ids: tuple[list[str], list[str]] | None = None,
    counts: dict[str, Any] | None = None,
    days: list[list[float]] | None = None,
    **features: list[Any],
) -> None:
    """Items with their train events and users with their histories; by default called i0, i1, ... and u0, u1, ...

    ``days`` are the times of each user's events, in days; all 0 by default.
    """
    item_ids, user_ids = ids or ([f"i{i}" for i in range(len(num_events))], [f"u{u}" for u in range(len(users))])
    items = [{"item_idx": i, "item_id": item_ids[i], "num_events": n, "active": True} for i, n in enumerate(num_events)]
    people = [{"user_idx": u, "user_id": user_ids[u], "num_events": len(p[0])} for u, p in enumerate(users)]
    tables = {
        "items": rows_of("items", items, **features),
        "users": rows_of("users", people),
        "user_histories": build_histories(users, days),
    }
    write_stage(run, "sessions", tables, counts=counts or {})


def build_histories(users: list[Parts], days: list[list[float]] | None = None) -> pa.Table:
    """Rows of user_histories; ``days`` are the times of each user's events."""
    rows = []
    for user_idx, parts in enumerate(users):
        items = [item for part in parts for item in part]
        ts = [int(day * 86_400_000_000) for day in days[user_idx]] if days else [0] * len(items)
        same = {"ts": ts, "weight": [1.0] * len(items), "event_type": [0] * len(items)}
        counts = {"num_train": len(parts[0]), "num_valid": len(parts[1]), "num_context": len(parts[2])}
        rows.append({"user_idx": user_idx, "item_idx": items, **same, **counts})
    return rows_of("user_histories", rows)


def write_embeddings(
    run: Run,
    vectors: dict[int, list[float]],
    query_vectors: dict[int, list[float]] | None = None,
    bias: dict[int, float] | None = None,
    metric: str = "cosine",
    **facts: Any,
) -> None:
    """The model's vectors by item_idx; ``facts`` go into the record."""
    model_id = run.stages["train"].id
    rows = [
        {
            "idx": idx,
            "id": f"i{idx}",
            "vector": vector,
            "query_vector": (query_vectors or {}).get(idx),
            "bias": (bias or {}).get(idx, 0.0),
            "model_id": model_id,
        }
        for idx, vector in vectors.items()
    ]
    dim = len(next(iter(vectors.values()), []))
    facts |= {"metric": metric, "model_id": model_id, "embedding_dim": dim}
    write_stage(run, "train", {"item_embeddings": rows_of("item_embeddings", rows)}, facts=facts)


def write_graph(run: Run, stage: str, edges: dict[int, list[tuple[int, float]]]) -> None:
    """item_graph of {src: [(dst, score), ...]}."""
    rows = [
        {"src_idx": src, "dst_idx": [d for d, _ in out], "score": [s for _, s in out], "count": [1] * len(out)}
        for src, out in edges.items()
    ]
    write_stage(run, stage, {"item_graph": rows_of("item_graph", rows)})


def random_vectors(seed: int, num_items: int, dim: int) -> np.ndarray:
    """Rows of different lengths, so that cosine and inner product differ."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(num_items, dim)) * random.uniform(0.2, 3, (num_items, 1))).astype(np.float32)
