"""Which items a search may return, from their features: bitmaps for `ShardedIndex.search`, combined by & | ~; and the
values that section `recommend` filters by.

allowed = items_with(items, "category", ["toys", "games"]) & items_between(items, "price", 0, 20)
index.search(queries, 10, allowed=allowed)
"""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import QueryError
from recspark.lake.arrow import TableAt, open_table, read_table

Bitmap = NDArray[np.bool_]
"""bool[largest item_idx + 1]."""


def items_with(items: TableAt, feature: str, values: Collection[str]) -> Bitmap:
    """The items whose categorical or text feature is one of ``values``, or whose multi feature holds one.

    Raises: QueryError for a feature that the table does not have, or one of numbers.
    """
    item_idx, column = _read(items, feature)
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        raise QueryError(f"{items.uri}: feature {feature} holds {column.type}, not texts; use items_between")
    return _to_bitmap(item_idx, item_idx[has_value(column, values)])


def items_between(items: TableAt, feature: str, low: float, high: float) -> Bitmap:
    """The items whose numeric feature lies between two values, both included; one without a value does not.

    Raises: QueryError for a feature that the table does not have, or one that is no number.
    """
    item_idx, column = _read(items, feature)
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise QueryError(f"{items.uri}: feature {feature} holds {column.type}, not numbers; use items_with")
    inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high)).fill_null(False)
    return _to_bitmap(item_idx, item_idx[inside.to_numpy()])


def has_value(column: pa.ChunkedArray, values: Collection[str]) -> NDArray[np.bool_]:
    """bool[N], which items of a feature's column have one of the values; of lists, in any place. Compared as text."""
    wanted = pa.array([str(value) for value in values], pa.string())
    if not pa.types.is_list(column.type):
        return np.asarray(pc.is_in(column.cast(pa.string()), value_set=wanted).to_numpy())
    has_one = np.zeros(len(column), np.bool_)
    parents = pc.list_parent_indices(column).to_numpy()
    has_one[parents[pc.is_in(pc.list_flatten(column).cast(pa.string()), value_set=wanted).to_numpy()]] = True
    return has_one


def _read(items: TableAt, feature: str) -> tuple[NDArray[np.int64], pa.ChunkedArray]:
    """(item_idx, values) of a feature."""
    name = c.FEATURE_PREFIX + feature
    there = [field.name for field in open_table(items.lake, items.name, items.version).schema().fields]
    if name not in there:
        known = ", ".join(n.removeprefix(c.FEATURE_PREFIX) for n in there if n.startswith(c.FEATURE_PREFIX)) or "none"
        raise QueryError(f"{items.uri}: items have no feature {feature} at version {items.version}; they have {known}")
    found = read_table(items, [c.ITEM_IDX, name])
    return found[c.ITEM_IDX].to_numpy().astype(np.int64), found[name]


def _to_bitmap(all_idx: NDArray[np.int64], chosen: NDArray[np.int64]) -> Bitmap:
    bitmap = np.zeros(int(all_idx.max(initial=-1)) + 1, np.bool_)
    bitmap[chosen] = True
    return bitmap
