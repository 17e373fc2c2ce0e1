"""Features of items and users as numbers that a tower looks up: codes, lists of codes, vectors.

    f_genre    ["Drama", "War"]   ->  codes [3, 9]      code 0: a missing value, or one unseen in training
    f_price    12.5               ->  code 7            the bucket it falls into
    f_picture  [.1, .7, ...]      ->  the vector, zeros where there is none

Vocabularies and buckets are those of what has train events: what came later must not decide anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.config.source import FeatureConfig
from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.lake.arrow import TableAt, open_table, read_table

UNKNOWN = 0
"""The code of a missing or unseen value."""


@dataclass(frozen=True)
class EncodedFeature:
    """One feature of all n items or users.

    kind ``codes``: code ``values[offsets[r]:offsets[r + 1]]`` of row r, int64, below ``size``. kind ``vector``:
    ``values`` float32 [n, size]. ``schema`` says how it came about, as the exported towers carry it.
    """

    name: str
    kind: str
    size: int
    values: NDArray[Any]
    offsets: NDArray[np.int64] | None
    schema: dict[str, Any]


def read_features(
    table: TableAt, idx: str, names: Sequence[str], configs: Sequence[FeatureConfig], num_buckets: int
) -> list[EncodedFeature]:
    """The named features of `items` or `users`, rows by ``idx``.

    Raises: DataError for a column that is not there, a feature without any value, or vectors of different lengths.
    """
    if not names:
        return []
    by_name = {config.name: config for config in configs}
    columns = {name: c.FEATURE_PREFIX + name for name in names}
    there = {field.name for field in open_table(table.lake, table.name, table.version).schema().fields}
    if lacking := [name for name, column in columns.items() if column not in there]:
        raise DataError(
            f"{table.uri}: no column {', '.join(columns[n] for n in lacking)} at version {table.version}; it has "
            f"{', '.join(sorted(n for n in there if n.startswith(c.FEATURE_PREFIX))) or 'no features'}. Run the "
            f"sessions stage with these features"
        )
    rows = read_table(table, [idx, c.NUM_EVENTS, *columns.values()]).sort_by(idx)
    is_known = rows[c.NUM_EVENTS].to_numpy() > 0
    found = []
    for name, column in columns.items():
        where = f"{table.uri}: {column}"
        found.append(encode(name, by_name[name].kind, rows[column].combine_chunks(), is_known, num_buckets, where))
    return found


def encode(
    name: str, kind: str, column: pa.Array, is_known: NDArray[np.bool_], num_buckets: int, where: str
) -> EncodedFeature:
    """One column, learned from the rows that are known.

    Raises: DataError when none of these has a value, or vectors differ in length.
    """
    if not is_known.any() or column.filter(pa.array(is_known)).null_count == is_known.sum():
        raise DataError(
            f"{where}: no value in any row with train events; check the feature's join key, or leave it out"
        )
    if kind == "numeric":
        return _encode_numbers(name, column, is_known, num_buckets)
    if kind == "vector":
        return _encode_vectors(name, column, where)
    return _encode_values(name, kind, column, is_known)


def _encode_values(name: str, kind: str, column: pa.Array, is_known: NDArray[np.bool_]) -> EncodedFeature:
    """Texts, one or several a row: code 1 is the first of the known ones in alphabetic order."""
    lists = column if pa.types.is_list(column.type) else _as_lists(column)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = pc.list_flatten(lists)
    of_known = np.repeat(is_known, lengths)
    vocabulary = pc.unique(values.filter(pa.array(of_known))).drop_null().sort()
    codes = pc.fill_null(pc.index_in(values, vocabulary), -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    offsets, codes = _fill_empty(lengths, codes)
    schema = {"name": name, "kind": kind, "vocabulary": vocabulary.to_pylist()}
    return EncodedFeature(name, "codes", len(vocabulary) + 1, codes, offsets, schema)


def _encode_numbers(name: str, column: pa.Array, is_known: NDArray[np.bool_], num_buckets: int) -> EncodedFeature:
    """Numbers by quantile: bucket 1 is the lowest; missing ones and NaN are code 0."""
    numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    finite = np.isfinite(numbers)
    learned = numbers[is_known & finite]
    edges = np.unique(np.quantile(learned, np.linspace(0, 1, num_buckets + 1)[1:-1])) if len(learned) else np.zeros(0)
    codes = np.where(finite, np.searchsorted(edges, np.where(finite, numbers, 0), side="right") + 1, UNKNOWN)
    schema = {"name": name, "kind": "numeric", "edges": edges.tolist()}
    offsets = np.arange(len(codes) + 1, dtype=np.int64)
    return EncodedFeature(name, "codes", len(edges) + 2, codes.astype(np.int64), offsets, schema)


def _encode_vectors(name: str, column: pa.Array, where: str) -> EncodedFeature:
    lengths = pc.list_value_length(column).drop_null().to_numpy(zero_copy_only=False)
    sizes, counts = np.unique(lengths, return_counts=True)
    if len(sizes) != 1 or sizes[0] == 0:
        shown = ", ".join(f"{n:,} of length {size}" for size, n in zip(sizes, counts, strict=True))
        raise DataError(f"{where}: vectors of different lengths ({shown}); give all the same length")
    size = int(sizes[0])
    values = np.zeros((len(column), size), np.float32)
    flat = pc.list_flatten(column).cast(pa.float32()).to_numpy(zero_copy_only=False)
    values[column.is_valid().to_numpy(zero_copy_only=False)] = np.nan_to_num(flat).reshape(-1, size)
    return EncodedFeature(name, "vector", size, values, None, {"name": name, "kind": "vector", "length": size})


def _as_lists(column: pa.Array) -> pa.ListArray:
    """One value a row as a list of one, none where it is NULL."""
    is_there = column.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(is_there)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), column.drop_null())


def _fill_empty(lengths: NDArray[np.int64], codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(offsets, codes) with one `UNKNOWN` in every row without a value."""
    filled = np.maximum(lengths, 1)
    offsets = np.concatenate([[0], np.cumsum(filled)]).astype(np.int64)
    out = np.full(offsets[-1], UNKNOWN, np.int64)
    starts = np.repeat(offsets[:-1] - (np.cumsum(lengths) - lengths), lengths)
    out[np.arange(len(codes)) + starts] = codes
    return offsets, out
