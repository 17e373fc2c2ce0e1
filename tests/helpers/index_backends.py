"""Indexes of the same vectors by one backend or another, and their recall."""

from typing import Any

import faiss
import numpy as np

from recspark.config.index import IndexConfig
from recspark.index import backends
from recspark.index.plan import IndexPlan, plan_index
from tests.helpers.index_lake import clustered

CASES = [
    {"kind": "ivf_flat"},
    {"kind": "ivf_pq", "m": 8, "refine": "none"},
    {"kind": "ivf_pq", "m": 8, "refine": "none", "opq": True, "nbits": 4},
    {"kind": "ivf_pq", "m": 16, "refine": "none", "nbits": 4},
]


def unit_vectors(num_vectors: int = 6000, dim: int = 32) -> np.ndarray:
    """float32[N, dim] of unit length, in clusters."""
    vectors = clustered(num_vectors, dim, seed=3, num_clusters=100)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build_by(backend: str, vectors: np.ndarray, **knobs: Any) -> tuple[IndexPlan, Any]:
    """(plan, an index with all vectors, twice their row as id) as the stage would make it."""
    plan = plan_index(IndexConfig(nlist=32, **knobs), len(vectors), vectors.shape[1], "cosine", has_bias=False)
    index = backends.empty_index(plan, 1)
    backends.train_index(index, plan, vectors, backend, 1)
    ids, half = np.arange(len(vectors)) * 2, len(vectors) // 2
    blocks = iter([(ids[:half], vectors[:half]), (ids[half:], vectors[half:])])
    return plan, backends.add_blocks(index, plan, blocks, backend, 0)


def recall_at_10(index: Any, vectors: np.ndarray, nprobe: int = 8) -> float:
    """Of 400 of the vectors, against exact search."""
    exact = faiss.IndexFlatL2(vectors.shape[1])
    exact.add(vectors)
    wanted = 2 * exact.search(vectors[:400], 10)[1]
    faiss.extract_index_ivf(index).nprobe = nprobe
    found = index.search(vectors[:400], 10)[1]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, wanted, strict=True)]))
