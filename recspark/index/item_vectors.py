"""A model's item vectors, read from `item_embeddings` at its pinned version: score = sim(query, vector) + bias.

idx 17, id "85123A", vector [...], query_vector null, bias 0.1  ->  row 17 of ``vectors``, and of ``bias``
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import LakeError
from recspark.evaluate.history_weights import ALL_ALIKE, HistoryWeights
from recspark.index.metric import COSINE, L2, METRICS, Floats, unit_rows
from recspark.lake.arrow import TableAt, read_table, stream_table

IsPart = Callable[[NDArray[np.integer]], NDArray[np.bool_]]
"""item_idx [N] -> bool [N], whether an item is wanted."""
_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of M of the catalogue's items, rows by ascending item_idx (items without a vector have no row)."""

    model_id: str
    metric: str
    """`cosine`, `ip` or `l2` (sim = -|q - v|^2)."""
    item_idx: NDArray[np.int64]
    vectors: Floats
    """[M, D], the candidate side."""
    queries: Floats
    """[M, D], the side that queries are built from; the same array where the model has one side."""
    bias: Floats
    """[M]."""
    item_id: pa.Array | None = None
    """The outside ids, where they were read."""
    history_weights: HistoryWeights = ALL_ALIKE
    """How users' vectors are made of them."""

    def __len__(self) -> int:
        return len(self.item_idx)

    @property
    def dim(self) -> int:
        """Floats a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def candidates(self) -> Floats:
        """[M, D]: what `prepare_queries` is compared with by inner product; of unit length where the metric is cosine.

        Under l2 [M, D + 2]: -|q - v|^2 is the product of (2 q, -|q|^2, 1) with (v, 1, -|v|^2).
        """
        if self.metric == L2:
            return np.hstack([self.vectors, np.ones((len(self), 1), np.float32), -_squares(self.vectors)])
        return unit_rows(self.vectors) if self.metric == COSINE else self.vectors

    @cached_property
    def unit_queries(self) -> Floats:
        """[M, D], query side, of unit length."""
        if self.queries is self.vectors and self.metric == COSINE:
            return self.candidates
        return unit_rows(self.queries)

    @property
    def user_parts(self) -> Floats:
        """[M, D], what user vectors are the mean of: the query side, of unit length except under l2."""
        return self.queries if self.metric == L2 else self.unit_queries

    def rows_of(self, item_idx: NDArray[np.integer]) -> NDArray[np.int64]:
        """The row of each item, -1 for one without a vector."""
        if not len(self):
            return np.full(item_idx.shape, -1, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.item_idx, item_idx), len(self) - 1)
        return np.where(self.item_idx[rows] == item_idx, rows, -1).astype(np.int64)

    def prepare_queries(self, queries_QD: Floats) -> Floats:
        """Queries [Q, D] as an inner product compares them with `candidates`; where the metric is cosine of unit
        length, zero stays zero."""
        if self.metric == L2:
            return np.hstack([2 * queries_QD, -_squares(queries_QD), np.ones((len(queries_QD), 1), np.float32)])
        return unit_rows(queries_QD) if self.metric == COSINE else queries_QD

    def take(self, rows: NDArray[np.int64]) -> "ItemVectors":
        """Some of the items, by ascending row."""
        vectors = self.vectors[rows]
        return ItemVectors(
            model_id=self.model_id,
            metric=self.metric,
            item_idx=self.item_idx[rows],
            vectors=vectors,
            queries=vectors if self.queries is self.vectors else self.queries[rows],
            bias=self.bias[rows],
            item_id=None if self.item_id is None else self.item_id.take(pa.array(rows)),
            history_weights=self.history_weights,
        )


def read_item_vectors(table: TableAt, *, with_ids: bool = False, part: IsPart | None = None) -> ItemVectors:
    """A model's vectors from a pinned `item_embeddings`; of ``part`` only those items, without holding the others.

    Raises: LakeError when the version holds no row of the model, an item twice, or vectors of another length than its
    record says.
    """
    model_id, dim = str(table.record.facts[c.MODEL_ID]), int(table.record.facts["embedding_dim"])
    columns = [c.IDX, c.VECTOR, c.QUERY_VECTOR, c.BIAS, *([c.ID] if with_ids else [])]
    wanted = [(c.MODEL_ID, "=", model_id)]
    rows = (_read_part(table, columns, model_id, part) if part else read_table(table, columns, wanted)).sort_by(c.IDX)
    where = f"{table.uri}: version {table.version}"
    if not rows.num_rows and not part:
        raise LakeError(f"{where} holds no vectors of model {model_id}; run the train stage again")
    item_idx = rows[c.IDX].to_numpy().astype(np.int64)
    metric = str(table.record.facts["metric"])
    if metric not in METRICS:
        raise LakeError(f"{where} is compared by {metric!r}; known are {', '.join(METRICS)}")
    if np.any(np.diff(item_idx) == 0):
        raise LakeError(f"{where} gives an idx twice; run the train stage again")
    vectors = _to_matrix(rows[c.VECTOR], dim, where)
    return ItemVectors(
        model_id=model_id,
        metric=metric,
        item_idx=item_idx,
        vectors=vectors,
        queries=_read_queries(rows[c.QUERY_VECTOR], vectors, where),
        bias=rows[c.BIAS].fill_null(0).to_numpy().astype(np.float32),
        item_id=rows[c.ID].combine_chunks() if with_ids else None,
        history_weights=_read_history_weights(table.record.facts),
    )


def _read_part(table: TableAt, columns: list[str], model_id: str, part: IsPart) -> pa.Table:
    is_own = pc.field(c.MODEL_ID) == model_id
    batches = [
        batch.filter(pa.array(part(batch[c.IDX].to_numpy())))
        for batch in stream_table(table, columns, _ROWS_AT_ONCE, is_own)
    ]
    return pa.Table.from_batches(batches)


def _read_history_weights(facts: dict[str, Any]) -> HistoryWeights:
    """As the model was exported with; without a word of it, all alike."""
    return HistoryWeights(float(facts.get("history_decay", 1.0)), facts.get("history_items"))


def _read_queries(column: pa.ChunkedArray, vectors: Floats, where: str) -> Floats:
    """``coalesce(query_vector, vector)``; the very same array where no row has a query vector."""
    if column.null_count == len(column):
        return vectors
    queries = vectors.copy()
    queries[column.is_valid().to_numpy()] = _to_matrix(column.drop_null(), vectors.shape[1], where)
    return queries


def _squares(vectors: Floats) -> Floats:
    """[N, 1] squared norms."""
    squares: Floats = np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True).astype(np.float32)
    return squares


def _to_matrix(column: pa.ChunkedArray, dim: int, where: str) -> Floats:
    """float32[M, dim] of a list column, chunk by chunk: a list array's offsets end at 2^31 values."""
    matrix = np.empty((len(column), dim), np.float32)
    row = 0
    for chunk in column.chunks:
        lengths = chunk.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        if np.any(lengths != dim):
            raise LakeError(
                f"{where} holds a vector of {lengths[lengths != dim][0]} floats, its record says embedding_dim {dim}; "
                f"run the train stage again"
            )
        matrix[row : row + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), dim)
        row += len(chunk)
    return matrix
