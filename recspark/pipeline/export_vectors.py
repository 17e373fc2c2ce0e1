"""`recspark export CONF --vectors`: ids and vectors as Parquet fixed-size lists, which other engines import.

items.parquet   id "85123A", vector fixed_size_list<float>[64], bias 0.1, query_vector where the model has two sides
users.parquet   id "u17", vector fixed_size_list<float>[64]                              where the model has users

Vectors are as they are compared: of unit length where the metric is cosine. The files' metadata says metric, dimension
and model. score = sim(query, vector) + bias; with ``fold_bias`` the bias is one more float of each item's vector, and
1 one more of each query's, so that an inner product alone is the score; under l2 (sim = -|q - v|^2) two more floats
make it one.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.index.item_vectors import ItemVectors, read_item_vectors
from recspark.index.metric import L2
from recspark.lake.arrow import TableAt, find_table, stream_table

ITEMS, USERS = "items.parquet", "users.parquet"
_ROWS = 65_536
Floats = NDArray[np.float32]


def write_vectors(run: Run, folder: Path, fold_bias: bool) -> Iterator[tuple[Path, int]]:
    """(file, rows) of each file written; users are streamed.

    Raises: LakeError when the training has not finished.
    """
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    vectors = read_item_vectors(embeddings, with_ids=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder / ITEMS, _write(folder / ITEMS, _item_rows(vectors, fold_bias), _describe(vectors, fold_bias))
    users = find_table(run.lake, run.stages["train"], "user_embeddings")
    rows = _write(folder / USERS, _user_rows(users, vectors, fold_bias), _describe(vectors, fold_bias))
    if rows:
        yield folder / USERS, rows


def _item_rows(vectors: ItemVectors, fold_bias: bool) -> Iterator[pa.Table]:
    assert vectors.item_id is not None, "read with ids"
    candidates_MD = vectors.candidates if _is_product(vectors, fold_bias) else vectors.vectors
    for start in range(0, len(vectors), _ROWS):
        part = slice(start, start + _ROWS)
        candidates, bias = candidates_MD[part], vectors.bias[part]
        columns = {
            c.ID: vectors.item_id.slice(start, _ROWS),
            c.VECTOR: to_fixed_lists(np.hstack([candidates, bias[:, None]]) if fold_bias else candidates),
            c.BIAS: pa.array(bias),
        }
        if vectors.queries is not vectors.vectors:
            columns[c.QUERY_VECTOR] = to_fixed_lists(_queries(vectors, vectors.queries[part], fold_bias))
        yield pa.table(columns)


def _user_rows(users: TableAt, vectors: ItemVectors, fold_bias: bool) -> Iterator[pa.Table]:
    where = pc.field(c.MODEL_ID) == vectors.model_id
    for batch in stream_table(users, [c.ID, c.VECTOR], _ROWS, where):
        if batch.num_rows:
            matrix = batch.column(1).flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
            yield pa.table({c.ID: batch.column(0), c.VECTOR: to_fixed_lists(_queries(vectors, matrix, fold_bias))})


def _is_product(vectors: ItemVectors, fold_bias: bool) -> bool:
    """Whether engines compare by an inner product; under l2 they know distances themselves, but for a bias."""
    return fold_bias or vectors.metric != L2


def _queries(vectors: ItemVectors, queries: Floats, fold_bias: bool) -> Floats:
    queries = vectors.prepare_queries(queries) if _is_product(vectors, fold_bias) else queries
    return np.hstack([queries, np.ones((len(queries), 1), np.float32)]) if fold_bias else queries


def to_fixed_lists(matrix: Floats) -> pa.FixedSizeListArray:
    """float32 [N, D] as fixed_size_list<float>[D].

    Raises: DataError for values that are not finite: engines refuse them one by one.
    """
    if not np.isfinite(matrix).all():
        raise DataError("export: vectors hold NaN or infinite values; look at the training log: it may have diverged")
    flat = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def _describe(vectors: ItemVectors, fold_bias: bool) -> dict[str, str]:
    metric = "ip" if fold_bias else vectors.metric
    dim = _queries(vectors, vectors.queries[:1], fold_bias).shape[1]
    return {"metric": metric, "dim": str(dim), "model_id": vectors.model_id}


def _write(path: Path, tables: Iterator[pa.Table], facts: dict[str, str]) -> int:
    """Rows written, one row group a table; no file where there are none."""
    writer, rows = None, 0
    for table in tables:
        table = table.replace_schema_metadata({f"recspark.{name}": value for name, value in facts.items()})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        rows += table.num_rows
    if writer:
        writer.close()
    return rows
