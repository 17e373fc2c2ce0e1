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
from typing import Protocol

from recspark.contracts.shards import shard_range
from recspark.errors import DataError, TrainingError
from recspark.training.lanes import Lane, LanePool, RowStream, block_start, hash_place, permutation
from recspark.training.prefetch import prefetched
from recspark.training.sequence_files import (
    RowGroup,
    SequenceFiles,
    Sequences,
    decode_row_group,
    open_sequences,
    read_row_group,
)

__all__ = ["LaneReader", "SequenceFiles", "SequenceReader", "Sequences", "open_sequences", "prefetched"]

MIN_LANE_ROWS = 4
"""A table with fewer rows a lane gets fewer lanes."""
CACHE_BYTES = 1 << 30
"""Tables up to this size are decoded once and kept; larger ones are streamed, each lane by itself."""


@dataclass(frozen=True)
class Segment:
    """Rows start..stop-1 of one row group."""

    group: RowGroup
    start: int
    stop: int


class SequenceReader(Protocol):
    """Batches of sequences in an order that any number of ranks shares."""

    num_rows: int
    num_lanes: int

    def rank_lanes(self, rank: int, world_size: int) -> range:
        """The lanes that a rank reads."""

    def steps_per_epoch(self, batch_sequences: int) -> int:
        """Global batches of an epoch."""

    def rows_left_out(self, batch_sequences: int) -> int:
        """Sequences of an epoch that are in no batch."""

    def read(self, epoch: int, first_step: int, batch_sequences: int, lanes: Sequence[int]) -> Iterator[Sequences]:
        """These lanes' part of every global batch from ``first_step`` to the end of the epoch, in lane order."""


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
        return deal_lanes(rank, world_size, self.num_lanes, self.num_rows)

    def steps_per_epoch(self, batch_sequences: int) -> int:
        """Global batches of an epoch; the last may be smaller, by as much in every lane.

        Raises: TrainingError when the batch does not divide into lanes.
        """
        return -(-self.lane_rows // lane_part(batch_sequences, self.num_lanes))

    def rows_left_out(self, batch_sequences: int) -> int:
        """Sequences of an epoch that are in no batch: fewer than ``num_lanes``, others in each epoch."""
        lane_part(batch_sequences, self.num_lanes)
        return self.num_rows % self.num_lanes

    def read(self, epoch: int, first_step: int, batch_sequences: int, lanes: Sequence[int]) -> Iterator[Sequences]:
        """These lanes' part of every global batch from ``first_step`` to the end of the epoch, in lane order.

        Raises: TrainingError when the batch does not divide into lanes; LakeError when a file is missing or damaged.
        """
        rows_per_lane = lane_part(batch_sequences, self.num_lanes)
        starts = range(first_step * rows_per_lane, self.lane_rows, rows_per_lane)
        pool = self.open(epoch, lanes, starts.start)
        return prefetched(
            lambda: (pool.take(min(rows_per_lane, self.lane_rows - start)) for start in starts), self._prefetch
        )

    def open(self, epoch: int, lanes: Sequence[int], first_row: int) -> LanePool:
        """An epoch's rows of some lanes, from row ``first_row`` of each on."""
        order = self.epoch_segments(epoch)
        return LanePool([self._open_lane(order, epoch, lane, first_row) for lane in lanes], first_row)

    def epoch_segments(self, epoch: int) -> list[Segment]:
        """The epoch's rows in order: a seeded permutation of row groups, turned by a seeded number of rows.

        Turning moves the cuts between lanes, and with them the rows left out, even in a table of one row group.
        """
        groups = self._files.of_epoch(epoch)
        order = permutation(len(groups), self._seed, epoch, 0)
        segments = [Segment(groups[g], 0, groups[g].num_rows) for g in order]
        total = sum(g.num_rows for g in groups)
        turn = hash_place(self._seed, epoch) % total
        return cut_segments(segments, turn, total) + cut_segments(segments, 0, turn)

    def _open_lane(self, order: list[Segment], epoch: int, lane: int, first_row: int) -> Lane:
        start, stop = lane * self.lane_rows, (lane + 1) * self.lane_rows
        segments = cut_segments(order, start + block_start(first_row), stop)
        return Lane(RowStream(self._read_segments(segments)), hash_place(self._seed, epoch, 1 + lane))

    def _read_segments(self, segments: list[Segment]) -> Iterator[Sequences]:
        for segment in segments:
            if self._is_cached:
                yield self._cached(segment.group).slice(segment.start, segment.stop)
            else:
                yield from _stream_segment(segment, self._files)

    def _cached(self, group: RowGroup) -> Sequences:
        if group not in self._cache:
            self._cache[group] = decode_row_group(group, self._files)
        return self._cache[group]


def fit_lanes(num_rows: int, num_lanes: int) -> int:
    """The largest divisor of ``num_lanes`` that leaves every lane `MIN_LANE_ROWS` rows; at least 1.

    A divisor, so that a batch that divides by the lanes asked for still does.
    """
    return max((d for d in _divisors(num_lanes) if d * MIN_LANE_ROWS <= num_rows), default=1)


def lane_part(batch_sequences: int, num_lanes: int) -> int:
    """Rows that a global batch takes of each lane.

    Raises: TrainingError when the batch does not divide into lanes.
    """
    if batch_sequences % num_lanes:
        below = batch_sequences // num_lanes * num_lanes
        values = [str(v) for v in (below, below + num_lanes) if v]
        raise TrainingError(
            f"training.batch_sequences: {batch_sequences} is no multiple of the {num_lanes} lanes; "
            f"use {' or '.join(values)}, or change training.num_lanes"
        )
    return batch_sequences // num_lanes


def deal_lanes(rank: int, world_size: int, num_lanes: int, num_rows: int) -> range:
    """The lanes that a rank reads.

    Raises: TrainingError when the lanes cannot be dealt evenly.
    """
    if num_lanes % world_size:
        raise TrainingError(
            f"{world_size} ranks cannot share {num_lanes} lanes evenly ({num_rows:,} sequences); "
            f"use {_any_of(_divisors(num_lanes))} ranks, or change training.num_lanes"
        )
    return shard_range(rank, world_size, num_lanes)


def cut_segments(segments: list[Segment], start: int, stop: int) -> list[Segment]:
    """Rows start..stop-1 of segments laid end to end."""
    cut, position = [], 0
    for s in segments:
        low, high = max(start - position, 0), min(stop - position, s.stop - s.start)
        if low < high:
            cut.append(Segment(s.group, s.start + low, s.start + high))
        position += s.stop - s.start
    return cut


def _stream_segment(segment: Segment, files: SequenceFiles) -> Iterator[Sequences]:
    """The segment's rows; earlier rows of the row group are decoded and dropped, later ones not read."""
    position = 0
    for chunk in read_row_group(segment.group, files):
        low, high = max(segment.start - position, 0), min(segment.stop - position, chunk.num_rows)
        if low < high:
            yield chunk.slice(low, high)
        position += chunk.num_rows
        if position >= segment.stop:
            return


def _decoded_bytes(groups: tuple[RowGroup, ...]) -> int:
    return sum(4 * g.num_values + 8 * (g.num_rows + 1) for g in groups)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _any_of(values: list[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
