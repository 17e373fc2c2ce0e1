"""Lanes being read: rows in stored order come in, blocks are shuffled, and a take gives equally many of every lane."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.contracts.shards import hash_ids
from recspark.training.sequence_files import Sequences, concatenate

BLOCK_ROWS = 2048
"""Rows of a lane that are shuffled among each other."""


def block_start(row: int) -> int:
    """The first row of the block that a lane's row is in."""
    return row - row % BLOCK_ROWS


class RowStream:
    """A stream of chunks that gives out rows in any portions."""

    def __init__(self, chunks: Iterator[Sequences]) -> None:
        self._chunks = chunks
        self._chunk: Sequences | None = None

    def take(self, num_rows: int) -> list[Sequences]:
        """The next ``num_rows`` rows in parts, fewer at the end."""
        parts = []
        while num_rows and (chunk := self._chunk or next(self._chunks, None)):
            taken = min(num_rows, chunk.num_rows)
            parts.append(chunk.slice(0, taken))
            self._chunk = chunk.slice(taken, chunk.num_rows) if taken < chunk.num_rows else None
            num_rows -= taken
        return parts


@dataclass(frozen=True)
class Lane:
    """One lane's rows from the start of some block on."""

    rows: RowStream
    shuffle_key: int

    def read_block(self, block: int) -> tuple[list[Sequences], NDArray[np.int64]]:
        """The next block's rows as they are stored, in parts, and the order they are to be read in."""
        parts = self.rows.take(BLOCK_ROWS)
        return parts, permutation(sum(p.num_rows for p in parts), self.shuffle_key, block)


class LanePool:
    """The rows of some lanes from one row on; every `take` gives equally many of each.

    Lanes are as long as each other, so their blocks end together: ``_pool`` holds one block of all of them, and row i
    of lane l is ``_order[l, i]`` in it. A batch is one gather, however many lanes there are.
    """

    def __init__(self, lanes: list[Lane], first_row: int) -> None:
        self._lanes = lanes
        self._block, self._skipped = divmod(first_row, BLOCK_ROWS)
        self._pool, self._order = concatenate([]), np.empty((len(lanes), 0), np.int64)

    def take(self, num_rows: int) -> Sequences:
        """The next ``num_rows`` rows of every lane, in lane order; no more than the lanes still hold."""
        while self._order.shape[1] < num_rows:
            self._add_block()
        batch = gather(self._pool, self._order[:, :num_rows].ravel())
        self._order = self._order[:, num_rows:]
        return batch

    def _add_block(self) -> None:
        """Puts a further block of every lane beside what is left of the pool."""
        blocks = [lane.read_block(self._block) for lane in self._lanes]
        left = gather(self._pool, self._order.ravel())
        starts = np.cumsum([left.num_rows, *(len(o) for _, o in blocks)])
        added = np.stack([start + o for start, (_, o) in zip(starts, blocks, strict=False)])
        kept = np.arange(left.num_rows).reshape(self._order.shape)
        self._pool = concatenate([left, *(part for parts, _ in blocks for part in parts)])
        self._order = np.hstack([kept, added])[:, self._skipped :]
        self._block, self._skipped = self._block + 1, 0


def permutation(size: int, *place: int) -> NDArray[np.int64]:
    """0..size-1 in an order that depends on the place alone, not on any library's generator."""
    return np.argsort(hash_ids(np.arange(size), hash_place(*place)), kind="stable")


def hash_place(*place: int) -> int:
    """64 bits that stand for a place such as (seed, epoch, lane); the parts' order matters."""
    key = 0
    for part in place:
        key = int(hash_ids(np.array([part], np.uint64), key)[0])
    return key


def gather(pool: Sequences, rows: NDArray[np.int64]) -> Sequences:
    """Some sequences of a batch, in the given order; a copy."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum((pool.offsets[1:] - pool.offsets[:-1])[rows], out=offsets[1:])
    values = np.empty(offsets[-1], np.int32)
    _gather_rows(pool.values, pool.offsets, rows, offsets, values)
    return Sequences(values, offsets, None if pool.keys is None else pool.keys[rows])


@njit(cache=True, nogil=True)
def _gather_rows(values, offsets, order, out_offsets, out):  # type: ignore[no-untyped-def]
    for r in range(len(order)):
        start = offsets[order[r]]
        position = out_offsets[r]
        for i in range(out_offsets[r + 1] - position):
            out[position + i] = values[start + i]
