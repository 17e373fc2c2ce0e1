"""Vectors that index benchmarks search: drawn around clusters, or trained by skip-gram on a corpus with topics."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.corpus import make_corpus
from benchmarks.skip_gram_runs import train_on_cpu, training_config, warm_up
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import COSINE, unit_rows

Floats = NDArray[np.float32]
_SPREAD = 0.7
"""Of a vector around its centre, whose columns have deviation 1; neighbours of one then lie in several clusters."""


def clustered_vectors(num_vectors: int, dim: int, num_clusters: int = 1000, seed: int = 1) -> Floats:
    """Unit vectors float32 [N, dim] around random centres, clusters of unequal sizes."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((num_clusters, dim)).astype(np.float32)
    weights = 1 / np.arange(1, num_clusters + 1) ** 0.5
    cluster = draw.choice(num_clusters, num_vectors, p=weights / weights.sum())
    noise = draw.standard_normal((num_vectors, dim)).astype(np.float32)
    return unit_rows(centres[cluster] + np.float32(_SPREAD) * noise)


def trained_vectors(num_items: int, num_tokens: int, dim: int, seed: int = 1) -> Floats:
    """Unit vectors float32 [N, dim] of the items that a corpus holds, by one epoch of the CPU kernel, one thread."""
    warm_up(dim, 1)
    corpus = make_corpus(num_items, num_tokens, seed=seed)
    config = training_config(epochs=1, num_threads=1, learning_rate=0.07, shared_negatives=24)
    vectors, _ = train_on_cpu(corpus.tokens, num_items, dim, config, seed)
    known = vectors[corpus.counts > 0]
    return unit_rows(known - known.mean(axis=0))


def draw_queries(vectors: Floats, num_queries: int, seed: int = 2) -> Floats:
    """Some of the vectors, each a little moved: an item's own place is no query that anyone has."""
    draw = np.random.default_rng(seed)
    rows = draw.choice(len(vectors), min(num_queries, len(vectors)), replace=False)
    noise = draw.standard_normal((len(rows), vectors.shape[1])).astype(np.float32)
    return unit_rows(vectors[rows] + np.float32(0.3) * unit_rows(noise))


def save_set(folder: Path, vectors: Floats, queries: Floats) -> dict[str, str]:
    """Writes both for workers; where they are, by name."""
    files = {"vectors": folder / "vectors.npy", "queries": folder / "queries.npy"}
    np.save(files["vectors"], vectors)
    np.save(files["queries"], queries)
    return {name: str(path) for name, path in files.items()}


def exact_neighbours(vectors: Floats, queries: Floats, k: int) -> NDArray[np.int64]:
    """int64 [Q, k] rows of the k nearest by inner product, block by block."""
    found = []
    for start in range(0, len(queries), 256):
        scores = queries[start : start + 256] @ vectors.T
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(top, order, 1))
    return np.concatenate(found)


def recall_of(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """Mean share of the wanted rows [Q, k] that were found."""
    k = wanted.shape[1]
    return float(np.mean([len(set(f[:k]) & set(w)) / k for f, w in zip(found.tolist(), wanted.tolist(), strict=True)]))


def as_items(vectors: Floats) -> ItemVectors:
    """The vectors as a model's, item_idx = row."""
    rows = np.arange(len(vectors), dtype=np.int64)
    ids = pa.array(rows.astype(str))
    return ItemVectors("benchmark", COSINE, rows, vectors, vectors, np.zeros(len(rows), np.float32), item_id=ids)
