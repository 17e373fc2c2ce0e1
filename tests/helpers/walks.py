"""Small graphs to walk on, and a digest of walks that does not depend on their order."""

import hashlib

import numpy as np
import pyarrow as pa

from recspark.graph.csr import Csr, symmetrize_by_max


def ring_with_chords(num_nodes: int = 40) -> Csr:
    """Node n is joined with n + 1 (weight 1 + n % 3) and n + 7 (weight 2), both ways."""
    nodes = np.arange(num_nodes)
    targets = np.stack([(nodes + 1) % num_nodes, (nodes + 7) % num_nodes], axis=1)
    weights = np.stack([1.0 + nodes % 3, np.full(num_nodes, 2.0)], axis=1)
    order = np.argsort(targets, axis=1)
    indices, values = (np.take_along_axis(a, order, axis=1).ravel() for a in (targets, weights))
    one_way = Csr(np.arange(num_nodes + 1) * 2, indices.astype(np.int32), values.astype(np.float32))
    return symmetrize_by_max(one_way)


def chunk_numbers(num_chunks: int) -> list[pa.RecordBatch]:
    """What Spark hands to a worker."""
    return [pa.RecordBatch.from_arrays([pa.array(range(num_chunks), pa.int64())], ["id"])]


def sha_of_walks(batches) -> str:  # type: ignore[no-untyped-def]
    """SHA-256 of rows of `walks`, whatever their order."""
    rows = sorted(
        (r["epoch"], r["start_idx"], r["shard"], tuple(r["walk"])) for batch in batches for r in batch.to_pylist()
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()
