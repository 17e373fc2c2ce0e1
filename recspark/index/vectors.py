"""Item vectors of one model, read from `item_embeddings` at its pinned version and checked before anything is built.

idx 17, id "85123A", vector [...], query_vector null, bias 0.1  ->  row 17 of ``vectors``, and of ``bias``
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.shards import hash_ids
from recspark.errors import IndexBuildError
from recspark.index.metric import Floats
from recspark.lake.arrow import TableAt, read_table

_SHOWN_IDS = 5


@dataclass(frozen=True)
class ItemVectors:
    """Arrays of N items in ascending ``item_idx``; ``queries`` is ``vectors`` itself where the model has no others."""

    item_idx: NDArray[np.int64]
    item_id: pa.Array
    vectors: Floats
    queries: Floats
    bias: Floats

    def __len__(self) -> int:
        return len(self.item_idx)

    @property
    def dim(self) -> int:
        """Floats a vector."""
        return int(self.vectors.shape[1])


def read_item_vectors(table: TableAt, model_id: str, dim: int) -> ItemVectors:
    """One model's rows of `item_embeddings`, sorted by idx.

    Raises: IndexBuildError for vectors of another length than ``dim``.
    """
    names = [c.IDX, c.ID, c.VECTOR, c.QUERY_VECTOR, c.BIAS]
    rows = read_table(table, names, filters=[(c.MODEL_ID, "=", model_id)])
    rows = rows.sort_by(c.IDX)
    item_idx = rows[c.IDX].to_numpy().astype(np.int64)
    if np.any(np.diff(item_idx) == 0):
        raise IndexBuildError(f"{table.uri}: version {table.version} gives an idx twice; run the train stage again")
    vectors = _matrix(rows[c.VECTOR], dim, table)
    return ItemVectors(
        item_idx=item_idx,
        item_id=pa.chunked_array(rows[c.ID]).combine_chunks(),
        vectors=vectors,
        queries=_query_vectors(rows[c.QUERY_VECTOR], vectors, table),
        bias=rows[c.BIAS].fill_null(0).to_numpy().astype(np.float32),
    )


def check_vectors(items: ItemVectors) -> None:
    """Checks that every vector is made of numbers.

    Raises: IndexBuildError for NaN or infinite values, with count and first ids.
    """
    finite = np.isfinite(items.vectors).all(axis=1) & np.isfinite(items.bias)
    _refuse(items, ~finite, "hold NaN or infinite values", "look at the training log: it may have diverged")
    finite_queries = np.isfinite(items.queries).all(axis=1)
    _refuse(items, ~finite_queries, "have query vectors with NaN or infinite values", "look at the training log")


def drop_zero_vectors(items: ItemVectors, metric: str) -> ItemVectors:
    """Under cosine, the items that have a direction: isolated nodes of an edge list have none and match nothing.

    Raises: IndexBuildError when none is left.
    """
    kept = items.vectors.any(axis=1)
    if metric != "cosine" or kept.all():
        return items
    if not kept.any():
        raise IndexBuildError(
            f"all {len(items):,} vectors are zero, which cosine cannot compare; look at the training log"
        )
    return ItemVectors(
        items.item_idx[kept],
        items.item_id.filter(pa.array(kept)),
        items.vectors[kept],
        items.queries[kept],
        items.bias[kept],
    )


def hash_sample(item_idx: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Rows of a random sample that hangs on the ids and the seed only: the ``size`` smallest hashes, in hash order."""
    order = np.argsort(hash_ids(item_idx, seed), kind="stable")
    return order[:size].astype(np.int64)


def _refuse(items: ItemVectors, is_bad: NDArray[np.bool_] | np.bool_, what: str, advice: str) -> None:
    rows = np.flatnonzero(is_bad)
    if not len(rows):
        return
    first = ", ".join(str(items.item_id[int(row)]) for row in rows[:_SHOWN_IDS])
    more = ", ..." if len(rows) > _SHOWN_IDS else ""
    raise IndexBuildError(f"item_embeddings: {len(rows)} of {len(items)} vectors {what}: {first}{more}; {advice}")


def _matrix(column: pa.ChunkedArray, dim: int, table: TableAt) -> Floats:
    """float32[N, dim] of a list column, chunk by chunk: a list array's offsets end at 2^31 values."""
    matrix = np.empty((len(column), dim), np.float32)
    row = 0
    for chunk in column.chunks:
        lengths = chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        if np.any(lengths != dim):
            found = int(lengths[lengths != dim][0])
            raise IndexBuildError(
                f"{table.uri}: version {table.version} holds a vector of {found} floats, its record says embedding_dim "
                f"{dim}; run the train stage again"
            )
        matrix[row : row + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), dim)
        row += len(chunk)
    return matrix


def _query_vectors(column: pa.ChunkedArray, vectors: Floats, table: TableAt) -> Floats:
    """``coalesce(query_vector, vector)``; the very same array where no row has a query vector."""
    if column.null_count == len(column):
        return vectors
    queries = vectors.copy()
    given = column.is_valid().to_numpy()
    queries[given] = _matrix(column.drop_null(), vectors.shape[1], table)
    return queries
