"""Item vectors, and lakes that hold them as the train stage would have left them."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from recspark.config import RunConfig, plan_run
from recspark.config.plan import Run
from recspark.contracts.tables import ITEM_EMBEDDINGS, USER_EMBEDDINGS
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import write_table

# Tiny inputs: a second thread only waits for the first, dearly where other tests keep the cores busy.
faiss.omp_set_num_threads(1)


def clustered(num_vectors: int, dim: int, seed: int = 0, num_clusters: int = 40) -> np.ndarray:
    """float32[N, dim] around cluster centres, with unequal norms, as trained item vectors are."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((num_clusters, dim))
    vectors = centres[draw.integers(0, num_clusters, num_vectors)] + 0.5 * draw.standard_normal((num_vectors, dim))
    return (vectors * draw.uniform(0.5, 2.0, (num_vectors, 1))).astype(np.float32)


def make_items(num_items: int, dim: int, *, bias: float = 0.0, queries: bool = False, seed: int = 0) -> ItemVectors:
    """Items with gaps between their ids; ``bias`` is its standard deviation."""
    draw = np.random.default_rng(seed + 100)
    vectors = clustered(num_items, dim, seed)
    item_idx = np.sort(draw.choice(3 * num_items, num_items, replace=False)).astype(np.int64)
    return ItemVectors(
        model_id="m",
        metric="cosine",
        item_idx=item_idx,
        item_id=pa.array([f"item-{i}" for i in item_idx]),
        vectors=vectors,
        queries=clustered(num_items, dim, seed + 1) if queries else vectors,
        bias=(bias * draw.standard_normal(num_items)).astype(np.float32),
    )


def plan_index_run(
    lake: str | Path, *, seed: int = 1, dim: int = 16, metric: str = "cosine", source: str = "tests", **index: Any
) -> Run:
    """A run whose index section is given; its other stages are planned, not run. Each ``source`` has its own keys."""
    config = RunConfig.model_validate(
        {
            "run": {"name": "tests", "seed": seed},
            "paths": {"lake": str(lake)},
            "split": {"kind": "time", "cut": "2026-01-01"},
            "model": {"embedding_dim": dim, "metric": metric},
            "index": {"num_queries": 100, **index},
        }
    )
    return plan_run(config, {"fingerprint": source})


def write_users(run: Run, vectors: np.ndarray) -> dict[str, int]:
    """Commits `user_embeddings` as the run's train stage would; the tables of its marker."""
    stage, num_users = run.stages["train"], len(vectors)
    table = pa.table(
        {
            "idx": pa.array(range(num_users), pa.int32()),
            "id": [f"user-{n}" for n in range(num_users)],
            "vector": pa.array(list(vectors), pa.list_(pa.float32())),
            "query_vector": pa.array([None] * num_users, pa.list_(pa.float32())),
            "bias": pa.array([0.0] * num_users, pa.float32()),
            "model_id": pa.array([stage.id] * num_users),
        }
    )
    record = run.record("train", is_marker=False, facts={"model_id": stage.id})
    return {"user_embeddings": write_table(run.lake, USER_EMBEDDINGS, table, record, replace=None)}


def write_items(run: Run, items: ItemVectors, tables: dict[str, int] | None = None, **facts: Any) -> int:
    """Commits `item_embeddings` as the run's train stage would; its version."""
    stage = run.stages["train"]
    has_queries = items.queries is not items.vectors
    table = pa.table(
        {
            "idx": pa.array(items.item_idx, pa.int32()),
            "id": items.item_id,
            "vector": pa.array(list(items.vectors), pa.list_(pa.float32())),
            "query_vector": pa.array(
                list(items.queries) if has_queries else [None] * len(items), pa.list_(pa.float32())
            ),
            "bias": items.bias,
            "model_id": pa.array([stage.id] * len(items)),
        }
    )
    known = {"metric": run.config.model.metric, "embedding_dim": items.dim, "model_id": stage.id}
    record = run.record("train", is_marker=True, tables=tables, facts=known | facts)
    return write_table(run.lake, ITEM_EMBEDDINGS, table, record, replace=None)


def exact_top(items: ItemVectors, queries: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The oracle: (item_idx, scores) of the k best items by float64 arithmetic and a full sort, ties by smaller id."""
    vectors, queries = items.vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores = queries @ vectors.T + items.bias
    if metric == "l2":
        scores = items.bias - np.square(queries[:, None] - vectors[None]).sum(-1)
    order = np.stack([np.lexsort((items.item_idx, -row)) for row in scores])[:, :k]
    return items.item_idx[order], np.take_along_axis(scores, order, axis=1)
