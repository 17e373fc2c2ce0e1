"""A model's item vectors in memory: score(query, item) = sim(query, vector) + bias."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import LakeError
from recspark.evaluate.ragged import IntArray
from recspark.evaluate.top_k import FloatArray
from recspark.lake.arrow import TableAt, read_table

COSINE = "cosine"


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of M of the catalogue's items, rows by ascending item_idx (items without a vector have no row)."""

    model_id: str
    metric: str
    """`cosine` or `ip`."""
    item_idx: NDArray[np.int32]
    vectors: FloatArray
    """[M, D], the candidate side."""
    query_vectors: FloatArray
    """[M, D], the side that queries are built from; the same array where the model has one side."""
    bias: FloatArray
    """[M]."""

    def __len__(self) -> int:
        return len(self.item_idx)

    @cached_property
    def candidates(self) -> FloatArray:
        """[M, D], of unit length where the metric is cosine: what an inner product compares with."""
        return unit_rows(self.vectors) if self.metric == COSINE else self.vectors

    @cached_property
    def unit_query_vectors(self) -> FloatArray:
        """[M, D], query side, of unit length: what user vectors are the mean of."""
        if self.query_vectors is self.vectors and self.metric == COSINE:
            return self.candidates
        return unit_rows(self.query_vectors)

    def rows_of(self, item_idx: IntArray) -> NDArray[np.int64]:
        """The row of each item, -1 for one without a vector."""
        if not len(self):
            return np.full(item_idx.shape, -1, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.item_idx, item_idx), len(self) - 1)
        return np.where(self.item_idx[rows] == item_idx, rows, -1).astype(np.int64)

    def prepare_queries(self, queries_QD: FloatArray) -> FloatArray:
        """Queries as an inner product compares them: of unit length where the metric is cosine; zero stays zero."""
        return unit_rows(queries_QD) if self.metric == COSINE else queries_QD


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Each row divided by its length; a zero row stays zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))[:, None]
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0), dtype=np.float32)


def read_item_vectors(table: TableAt) -> ItemVectors:
    """A model's vectors from a pinned `item_embeddings`.

    Raises: LakeError when the version holds no row of the model, or rows of different lengths.
    """
    model_id, metric = table.record.facts[c.MODEL_ID], table.record.facts["metric"]
    columns = [c.IDX, c.VECTOR, c.QUERY_VECTOR, c.BIAS]
    found = read_table(table, columns, [(c.MODEL_ID, "=", model_id)]).sort_by(c.IDX)
    where = f"{table.uri} at version {table.version}"
    if not found.num_rows:
        raise LakeError(f"{where}: no vectors of model {model_id}; run the stage train again")
    vectors = _to_matrix(found[c.VECTOR], where)
    return ItemVectors(
        model_id=model_id,
        metric=metric,
        item_idx=found[c.IDX].to_numpy().astype(np.int32),
        vectors=vectors,
        query_vectors=_read_query_side(found, vectors, where),
        bias=pc.fill_null(found[c.BIAS], 0.0).to_numpy().astype(np.float32),
    )


def _read_query_side(found: pa.Table, vectors: FloatArray, where: str) -> FloatArray:
    """coalesce(query_vector, vector)."""
    column = found[c.QUERY_VECTOR]
    if column.null_count == len(column):
        return vectors
    if column.null_count == 0:
        return _to_matrix(column, where)
    queries = vectors.copy()
    given = np.flatnonzero(column.is_valid().to_numpy())
    queries[given] = _to_matrix(column.drop_null(), where)
    return queries


def _to_matrix(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    lengths = pc.unique(pc.list_value_length(column))
    if len(lengths) != 1:
        raise LakeError(f"{where}: vectors of different lengths ({lengths.to_pylist()[:5]}); export the model again")
    values = pc.list_flatten(column).to_numpy()
    return np.asarray(values.reshape(len(column), lengths[0].as_py()), dtype=np.float32)
