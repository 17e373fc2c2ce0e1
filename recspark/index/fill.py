"""Vectors for active items that the model has none for: means of graph neighbours, or of items with the same features.

    item 17 has no vector, its neighbours 3 (score .6) and 5 (score .2) have some  ->  .75 v_3 + .25 v_5
    item 18 has no neighbours, category "toys" and colour "red"                    ->  (mean of toys + mean of red) / 2

Under cosine all vectors are of unit length first, so that none counts more than another. Only the index has the result.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.index.item_vectors import ItemVectors
from recspark.index.metric import COSINE, Floats
from recspark.lake.arrow import TableAt, read_table, stream_table
from recspark.lake.feature_values import read_feature_values

_ROWS_AT_ONCE = 100_000
Ints = NDArray[np.int64]
_NONE = np.empty(0, np.int64)


def fill_vectors(
    vectors: ItemVectors, items: TableAt, item_graph: TableAt | None, features: tuple[str, ...], ways: tuple[str, ...]
) -> tuple[ItemVectors, dict[str, int]]:
    """(the vectors with those of further items, how many were filled in by which way).

    Args:
        vectors: The model's, with ids.
        items: Table `items`; inactive items are left alone.
        item_graph: Table `item_graph`, for way ``neighbours``.
        features: Names of item features, for way ``content``.
        ways: ``neighbours``, ``content``: tried in this order.
    """
    rows = read_table(items, [c.ITEM_IDX, c.ITEM_ID], [(c.ACTIVE, "=", True)]).sort_by(c.ITEM_IDX)
    active = rows[c.ITEM_IDX].to_numpy().astype(np.int64)
    missing = active[vectors.rows_of(active) < 0]
    weights = sp.csr_array((len(missing), len(vectors)), dtype=np.float32)
    counts = {}
    for way in ways:
        open_rows = np.diff(weights.indptr) == 0
        if way == "neighbours":
            assert item_graph, "the config asks for a graph"
            found = weigh_neighbours(missing, vectors, item_graph)
        else:
            found = weigh_content(missing, vectors, items, features)
        found = sp.diags_array(open_rows.astype(np.float32)) @ found
        counts[way] = int((np.diff(sp.csr_array(found).indptr) > 0).sum()) if len(missing) else 0
        weights = sp.csr_array(weights + found)
    counts["unfilled"] = int((np.diff(weights.indptr) == 0).sum())
    return _append(vectors, missing, weights, rows), counts


def weigh_neighbours(missing: Ints, vectors: ItemVectors, item_graph: TableAt) -> sp.csr_array:
    """Weights [missing, M], rows that sum to 1: each missing item's neighbours that have a vector, by score."""
    places, rows, scores = [_NONE], [_NONE], [np.empty(0, np.float32)]
    for batch in stream_table(item_graph, [c.SRC_IDX, c.DST_IDX, c.SCORE], _ROWS_AT_ONCE):
        own = batch.filter(pc.is_in(batch[c.SRC_IDX], value_set=pa.array(missing, batch[c.SRC_IDX].type)))
        lengths = pc.list_value_length(own[c.DST_IDX]).to_numpy(zero_copy_only=False)
        neighbour = vectors.rows_of(pc.list_flatten(own[c.DST_IDX]).to_numpy().astype(np.int64))
        score = pc.list_flatten(own[c.SCORE]).to_numpy()
        place = np.repeat(np.searchsorted(missing, own[c.SRC_IDX].to_numpy()), lengths)
        counts = (neighbour >= 0) & (score > 0)
        places.append(place[counts])
        rows.append(neighbour[counts])
        scores.append(score[counts])
    shape = (len(missing), len(vectors))
    return _normalised(np.concatenate(places), np.concatenate(rows), np.concatenate(scores), shape)


def weigh_content(missing: Ints, vectors: ItemVectors, items: TableAt, features: tuple[str, ...]) -> sp.csr_array:
    """Weights [missing, M], rows that sum to 1: by the values of features that known items share."""
    item, value, num_values = read_feature_values(items, features)
    known, place = vectors.rows_of(item), np.searchsorted(missing, item)
    is_missing = (known < 0) & np.isin(item, missing)
    of_value = _normalised(value[known >= 0], known[known >= 0], None, (num_values, len(vectors)))
    tells = is_missing & (np.diff(of_value.indptr) > 0)[value]
    by_item = _normalised(place[tells], value[tells], None, (len(missing), num_values))
    return sp.csr_array(by_item @ of_value)


def _append(vectors: ItemVectors, missing: Ints, weights: sp.csr_array, rows: pa.Table) -> ItemVectors:
    """The vectors with the weighted means of those items that have weights, in ascending item_idx."""
    filled = np.flatnonzero(np.diff(weights.indptr) > 0)
    if not len(filled):
        return vectors
    item_idx = np.concatenate([vectors.item_idx, missing[filled]])
    order = np.argsort(item_idx)
    weights = weights[filled]
    places = np.searchsorted(rows[c.ITEM_IDX].to_numpy(), missing[filled])
    own_ids = rows[c.ITEM_ID].combine_chunks().take(pa.array(places))
    is_cosine, one_sided = vectors.metric == COSINE, vectors.queries is vectors.vectors
    parts = vectors.candidates if is_cosine else vectors.vectors
    sides = vectors.unit_queries if is_cosine else vectors.queries
    found = np.vstack([vectors.vectors, weights @ parts]).astype(np.float32)[order]
    bias = np.full(len(filled), vectors.bias.min(), np.float32)
    item_id = None
    if vectors.item_id is not None:
        item_id = pa.concat_arrays([vectors.item_id, own_ids.cast(vectors.item_id.type)]).take(pa.array(order))
    return replace(
        vectors,
        item_idx=item_idx[order],
        vectors=found,
        queries=found if one_sided else np.vstack([vectors.queries, weights @ sides]).astype(np.float32)[order],
        bias=np.concatenate([vectors.bias, bias])[order],
        item_id=item_id,
    )


def _normalised(rows: Ints, columns: Ints, values: Floats | None, shape: tuple[int, int]) -> sp.csr_array:
    """csr float32 of these entries (1 each without values, repeats of one added up), each row divided by its sum."""
    data = np.ones(len(rows), np.float32) if values is None else values.astype(np.float32)
    matrix = sp.csr_array((data, (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    sums = np.add.reduceat(np.append(matrix.data, 0), matrix.indptr[:-1]) if len(matrix.data) else np.empty(0)
    lengths = np.diff(matrix.indptr)
    if len(matrix.data):
        matrix.data = (matrix.data / np.repeat(sums, lengths)).astype(np.float32)
    return matrix
