"""Lanes: a pinned table of sequences as batches that do not depend on how many ranks read it.

An epoch is a seeded permutation of row groups, laid end to end, turned by a seeded number of rows and cut into
``num_lanes`` lanes of equal numbers of rows. Inside a lane, blocks of rows are shuffled. A global batch takes an equal
part of every lane, in lane order, and a rank owns a range of lanes:

    lane 0   | step 0 | step 1 | ...        rank 0 of 2
    lane 1   | step 0 | step 1 | ...        rank 0
    lane 2   | step 0 | step 1 | ...        rank 1
    lane 3   | step 0 | step 1 | ...        rank 1

So every number of ranks that divides ``num_lanes`` sees the same global batches, has the same number of steps, reads
only its own rows, and goes on from any (epoch, step).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recspark.contracts.shards import hash_ids, shard_range
from recspark.errors import DataError, TrainingError
from recspark.training.prefetch import prefetched
from recspark.training.sequence_files import (
    RowGroup,
    SequenceFiles,
    Sequences,
    concatenate,
    decode_row_group,
    open_sequences,
    read_row_group,
)

__all__ = ["LaneReader", "SequenceFiles", "Sequences", "open_sequences", "prefetched"]

MIN_LANE_ROWS = 4
"""A table with fewer rows a lane gets fewer lanes."""
BLOCK_ROWS = 2048
"""Rows of a lane that are shuffled among each other."""
CACHE_BYTES = 1 << 30
"""Tables up to this size are decoded once and kept; larger ones are streamed, each lane by itself."""


@dataclass(frozen=True)
class Segment:
    """Rows start..stop-1 of one row group."""

    group: RowGroup
    start: int
    stop: int


class LaneReader:
    """Reads every epoch's sequences in an order that depends on seed and epoch only.

    ``num_lanes`` may come out lower than asked for: the largest divisor of it that leaves every lane `MIN_LANE_ROWS`
    rows. ``prefetch`` batches are read ahead by a thread; 0 reads in the caller's. Up to ``cache_bytes`` the decoded
    table is kept in memory.

    Raises: DataError when the table has no rows.
    """

    def __init__(
        self, files: SequenceFiles, num_lanes: int, seed: int, prefetch: int = 2, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._files, self._seed, self._prefetch = files, seed, prefetch
        self.num_rows = min((sum(g.num_rows for g in groups) for groups in files.epochs), default=0)
        """Sequences an epoch reads; of the smallest epoch where a table's epochs differ."""
        if self.num_rows == 0:
            raise DataError(f"{files.table}: no sequences at version {files.version}; nothing to train on")
        self.num_lanes = fit_lanes(self.num_rows, num_lanes)
        """Streams of equal length."""
        self._cache: dict[RowGroup, Sequences] = {}
        self._is_cached = sum(_decoded_bytes(groups) for groups in files.epochs) <= cache_bytes

    @property
    def lane_rows(self) -> int:
        """Sequences of every lane in an epoch."""
        return self.num_rows // self.num_lanes

    def rank_lanes(self, rank: int, world_size: int) -> range:
        """The lanes that a rank reads.

        Raises: TrainingError when the lanes cannot be dealt evenly.
        """
        if self.num_lanes % world_size:
            raise TrainingError(
                f"{world_size} ranks cannot share {self.num_lanes} lanes evenly ({self.num_rows:,} sequences); "
                f"use {_any_of(_divisors(self.num_lanes))} ranks, or change training.num_lanes"
            )
        return shard_range(rank, world_size, self.num_lanes)

    def steps_per_epoch(self, batch_sequences: int) -> int:
        """Global batches of an epoch; the last may be smaller, by as much in every lane.

        Raises: TrainingError when the batch does not divide into lanes.
        """
        return -(-self.lane_rows // self._rows_per_lane(batch_sequences))

    def rows_left_out(self, batch_sequences: int) -> int:
        """Sequences of an epoch that are in no batch: fewer than ``num_lanes``, others in each epoch."""
        self._rows_per_lane(batch_sequences)
        return self.num_rows % self.num_lanes

    def read(self, epoch: int, first_step: int, batch_sequences: int, lanes: Sequence[int]) -> Iterator[Sequences]:
        """These lanes' part of every global batch from ``first_step`` to the end of the epoch, in lane order.

        Raises: TrainingError when the batch does not divide into lanes; LakeError when a file is missing or damaged.
        """
        rows_per_lane = self._rows_per_lane(batch_sequences)
        first_row = first_step * rows_per_lane
        order = self.epoch_segments(epoch)
        opened = [self._open_lane(order, epoch, lane, first_row) for lane in lanes]
        return prefetched(lambda: _batches(opened, first_row, rows_per_lane, self.lane_rows), self._prefetch)

    def epoch_segments(self, epoch: int) -> list[Segment]:
        """The epoch's rows in order: a seeded permutation of row groups, turned by a seeded number of rows.

        Turning moves the cuts between lanes, and with them the rows left out, even in a table of one row group.
        """
        groups = self._files.of_epoch(epoch)
        order = _permutation(len(groups), self._seed, epoch, 0)
        segments = [Segment(groups[g], 0, groups[g].num_rows) for g in order]
        total = sum(g.num_rows for g in groups)
        turn = _hash_place(self._seed, epoch) % total
        return cut_segments(segments, turn, total) + cut_segments(segments, 0, turn)

    def _rows_per_lane(self, batch_sequences: int) -> int:
        if batch_sequences % self.num_lanes:
            below = batch_sequences // self.num_lanes * self.num_lanes
            values = [str(v) for v in (below, below + self.num_lanes) if v]
            raise TrainingError(
                f"training.batch_sequences: {batch_sequences} is no multiple of the {self.num_lanes} lanes; "
                f"use {' or '.join(values)}, or change training.num_lanes"
            )
        return batch_sequences // self.num_lanes

    def _open_lane(self, order: list[Segment], epoch: int, lane: int, first_row: int) -> "_Lane":
        first_block = first_row // BLOCK_ROWS
        start, stop = lane * self.lane_rows, (lane + 1) * self.lane_rows
        segments = cut_segments(order, start + first_block * BLOCK_ROWS, stop)
        return _Lane(_Rows(self._read_segments(segments)), _hash_place(self._seed, epoch, 1 + lane))

    def _read_segments(self, segments: list[Segment]) -> Iterator[Sequences]:
        for segment in segments:
            if self._is_cached:
                yield self._cached(segment.group).slice(segment.start, segment.stop)
            else:
                yield from _stream_segment(segment, self._files.column)

    def _cached(self, group: RowGroup) -> Sequences:
        if group not in self._cache:
            self._cache[group] = decode_row_group(group, self._files.column)
        return self._cache[group]


def fit_lanes(num_rows: int, num_lanes: int) -> int:
    """The largest divisor of ``num_lanes`` that leaves every lane `MIN_LANE_ROWS` rows; at least 1.

    A divisor, so that a batch that divides by the lanes asked for still does.
    """
    return max((d for d in _divisors(num_lanes) if d * MIN_LANE_ROWS <= num_rows), default=1)


def cut_segments(segments: list[Segment], start: int, stop: int) -> list[Segment]:
    """Rows start..stop-1 of segments laid end to end."""
    cut, position = [], 0
    for s in segments:
        low, high = max(start - position, 0), min(stop - position, s.stop - s.start)
        if low < high:
            cut.append(Segment(s.group, s.start + low, s.start + high))
        position += s.stop - s.start
    return cut


def _stream_segment(segment: Segment, column: str) -> Iterator[Sequences]:
    """The segment's rows; earlier rows of the row group are decoded and dropped, later ones not read."""
    position = 0
    for chunk in read_row_group(segment.group, column):
        low, high = max(segment.start - position, 0), min(segment.stop - position, chunk.num_rows)
        if low < high:
            yield chunk.slice(low, high)
        position += chunk.num_rows
        if position >= segment.stop:
            return


class _Rows:
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
class _Lane:
    """One lane's rows from the start of some block on."""

    rows: _Rows
    shuffle_key: int

    def read_block(self, block: int) -> tuple[list[Sequences], NDArray[np.int64]]:
        """The next block's rows as they are stored, in parts, and the order they are to be read in."""
        parts = self.rows.take(BLOCK_ROWS)
        return parts, _permutation(sum(p.num_rows for p in parts), self.shuffle_key, block)


def _batches(lanes: list[_Lane], first_row: int, rows_per_lane: int, lane_rows: int) -> Iterator[Sequences]:
    """Batches of rows first_row..lane_rows-1 of every lane, in lane order.

    Lanes are as long as each other, so their blocks end together: ``pool`` holds one block of all of them, and row i of
    lane l is ``order[l, i]`` in it. A batch is one gather, however many lanes there are.
    """
    block, skipped = divmod(first_row, BLOCK_ROWS)
    pool, order = concatenate([]), np.empty((len(lanes), 0), np.int64)
    for start in range(first_row, lane_rows, rows_per_lane):
        num_rows = min(rows_per_lane, lane_rows - start)
        while order.shape[1] < num_rows:
            pool, order = _add_block(pool, order, [lane.read_block(block) for lane in lanes])
            order, block, skipped = order[:, skipped:], block + 1, 0
        yield _gather(pool, order[:, :num_rows].ravel())
        order = order[:, num_rows:]


def _add_block(
    pool: Sequences, order: NDArray[np.int64], blocks: list[tuple[list[Sequences], NDArray[np.int64]]]
) -> tuple[Sequences, NDArray[np.int64]]:
    """What is left of the pool and a further block of every lane: (pool, order)."""
    left = _gather(pool, order.ravel())
    starts = np.cumsum([left.num_rows, *(len(o) for _, o in blocks)])
    added = np.stack([start + o for start, (_, o) in zip(starts, blocks, strict=False)])
    kept = np.arange(left.num_rows).reshape(order.shape)
    return concatenate([left, *(part for parts, _ in blocks for part in parts)]), np.hstack([kept, added])


def _permutation(size: int, *place: int) -> NDArray[np.int64]:
    """0..size-1 in an order that depends on the place alone, not on any library's generator."""
    return np.argsort(hash_ids(np.arange(size), _hash_place(*place)), kind="stable")


def _hash_place(*place: int) -> int:
    """64 bits that stand for a place such as (seed, epoch, lane); the parts' order matters."""
    key = 0
    for part in place:
        key = int(hash_ids(np.array([part], np.uint64), key)[0])
    return key


def _gather(pool: Sequences, rows: NDArray[np.int64]) -> Sequences:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum((pool.offsets[1:] - pool.offsets[:-1])[rows], out=offsets[1:])
    values = np.empty(offsets[-1], np.int32)
    _gather_rows(pool.values, pool.offsets, rows, offsets, values)
    return Sequences(values, offsets)


@njit(cache=True, nogil=True)
def _gather_rows(values, offsets, order, out_offsets, out):  # type: ignore[no-untyped-def]
    for r in range(len(order)):
        start = offsets[order[r]]
        position = out_offsets[r]
        for i in range(out_offsets[r + 1] - position):
            out[position + i] = values[start + i]


def _decoded_bytes(groups: tuple[RowGroup, ...]) -> int:
    return sum(4 * g.num_values + 8 * (g.num_rows + 1) for g in groups)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _any_of(values: list[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
