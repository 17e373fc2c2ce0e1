"""Small graphs to walk on, and a digest of walks that does not depend on their order."""

import hashlib

import numpy as np
import pyarrow as pa

from recspark.contracts.tables import ITEM_GRAPH
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


def rows_of_graph(graph: Csr) -> pa.Table:
    """The graph as rows of `item_graph`."""
    offsets = pa.array(graph.indptr.astype(np.int32))
    lists = {"dst_idx": graph.indices, "score": graph.weights, "count": np.ones(graph.num_edges, np.int32)}
    columns = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in lists.items()}
    nodes = pa.array(np.arange(graph.num_nodes, dtype=np.int32))
    return pa.table({"src_idx": nodes, **columns}).cast(ITEM_GRAPH.schema)


def chunk_numbers(num_chunks: int) -> list[pa.RecordBatch]:
    """What Spark hands to a worker."""
    return [pa.RecordBatch.from_arrays([pa.array(range(num_chunks), pa.int64())], ["id"])]


def sha_of_walks(batches) -> str:  # type: ignore[no-untyped-def]
    """SHA-256 of rows of `walks`, whatever their order."""
    rows = sorted(
        (r["epoch"], r["start_idx"], r["shard"], tuple(r["walk"])) for batch in batches for r in batch.to_pylist()
    )
    return hashlib.sha256(repr(rows).encode()).hexdigest()
