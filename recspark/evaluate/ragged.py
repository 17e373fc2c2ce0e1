"""Rows of different lengths in two flat arrays, as histories and relevant items come out of the lake.

Ragged(offsets=[0, 2, 2, 3], values=[7, 4, 9])  is  [[7, 4], [], [9]]
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Ragged:
    """``values[offsets[r]:offsets[r + 1]]`` is row r."""

    offsets: NDArray[np.int64]
    values: NDArray[np.int32]

    @classmethod
    def from_lengths(cls, lengths: IntArray, values: IntArray) -> "Ragged":
        """Rows of the given lengths, one after the other."""
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        return cls(offsets, values.astype(np.int32, copy=False))

    @classmethod
    def from_rows(cls, rows: list[list[int]]) -> "Ragged":
        """Rows given as lists."""
        flat = [value for row in rows for value in row]
        return cls.from_lengths(np.array([len(r) for r in rows], dtype=np.int64), np.array(flat, dtype=np.int32))

    @classmethod
    def empty(cls, num_rows: int) -> "Ragged":
        """Rows without values."""
        return cls(np.zeros(num_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int32))

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> "Ragged":
        """Rows of a list column; NULL lists are empty."""
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        return cls.from_lengths(lengths, pc.list_flatten(column).to_numpy())

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Values in each row."""
        return np.diff(self.offsets)

    @property
    def row_of_value(self) -> NDArray[np.int64]:
        """The row each value stands in."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    @property
    def place_of_value(self) -> NDArray[np.int64]:
        """The place of each value inside its row, from 0."""
        return np.arange(len(self.values), dtype=np.int64) - np.repeat(self.offsets[:-1], self.lengths)

    def row(self, row: int) -> NDArray[np.int32]:
        """The values of one row."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def block(self, start: int, stop: int) -> "Ragged":
        """Rows start..stop-1, without a copy of the values."""
        offsets = self.offsets[start : stop + 1]
        return Ragged(offsets - offsets[0], self.values[offsets[0] : offsets[-1]])

    def take(self, rows: IntArray) -> "Ragged":
        """The given rows in the given order."""
        lengths = self.lengths[rows]
        starts = np.repeat(self.offsets[:-1][rows], lengths)
        places = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return Ragged.from_lengths(lengths, self.values[starts + places])

    def where(self, keep: BoolArray) -> "Ragged":
        """The same number of rows with only the values marked in ``keep`` (one mark a value)."""
        lengths = np.bincount(self.row_of_value[keep], minlength=len(self))
        return Ragged.from_lengths(lengths, self.values[keep])

    def keep_last(self, count: int) -> "Ragged":
        """The last ``count`` values of each row, or all it has."""
        return self.where(self.place_of_value >= np.repeat(self.lengths - count, self.lengths))

    def sort_by(self, keys: NDArray[Any]) -> "Ragged":
        """Each row's values by ascending ``keys`` (one a value); equal ones stay in order."""
        within = self.row_of_value[1:] == self.row_of_value[:-1]
        if not np.any(within & (keys[1:] < keys[:-1])):
            return self
        return Ragged(self.offsets, self.values[np.lexsort((keys, self.row_of_value))])

    def distinct(self) -> "Ragged":
        """Each row's distinct values, ascending."""
        width = self._width()
        keys = np.sort(self._keys(width))  # np.unique hashes before it sorts, which takes ten times as long
        keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
        lengths = np.bincount(keys // width, minlength=len(self))
        return Ragged.from_lengths(lengths, (keys % width).astype(np.int32))

    def without(self, other: "Ragged") -> "Ragged":
        """Each row's values that the same row of ``other`` does not hold."""
        return self.where(~other.contains(self.row_of_value, self.values))

    def contains(self, rows: IntArray, values: IntArray) -> BoolArray:
        """Whether row ``rows[...]`` holds ``values[...]``; both of one shape, values below 0 are in no row."""
        if not len(self.values):
            return np.zeros(np.shape(values), dtype=np.bool_)
        width = max(self._width(), int(np.max(values, initial=0)) + 1)
        keys = np.sort(self._keys(width))
        wanted = rows.astype(np.int64) * width + values
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.asarray((keys[places] == wanted) & (values >= 0))

    def _width(self) -> int:
        return int(self.values.max(initial=0)) + 1

    def _keys(self, width: int) -> NDArray[np.int64]:
        return self.row_of_value * width + self.values


def group_by_length(lengths: IntArray, width: int, max_values: int) -> Iterator[NDArray[np.int64]]:
    """All rows in groups of like length, the shortest first: padded to its longest and ``width`` wide, a group has at
    most ``max_values`` values (or one row).
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * max(int(lengths[order[stop]]), 1) * width <= max_values:
            stop += 1
        yield order[start:stop]
        start = stop
