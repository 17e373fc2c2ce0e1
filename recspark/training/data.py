"""Lanes of sequences out of a pinned Delta table (in work: signatures)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recspark.lake.arrow import TableAt


@dataclass(frozen=True)
class Sequences:
    """A ragged batch: sequence b is ``values[offsets[b]:offsets[b + 1]]``."""

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class SequenceFiles:
    """Row groups of a pinned table."""

    uri: str


def open_sequences(table: TableAt, column: str, split: str | None = None) -> SequenceFiles:
    """Lists files and row groups once; a table partitioned by `epoch` gives training epoch e its walk epoch e % n."""
    raise NotImplementedError


class LaneReader:
    """Every epoch's sequences in an order that depends on seed and epoch only, cut into lanes of equal rows."""

    def __init__(self, files: SequenceFiles, num_lanes: int, seed: int, prefetch: int = 2) -> None:
        self.num_lanes = num_lanes

    @property
    def num_rows(self) -> int:
        """Sequences of an epoch (the smallest one where walk epochs differ)."""
        raise NotImplementedError

    def rank_lanes(self, rank: int, world_size: int) -> range:
        """The lanes of a rank. Raises: TrainingError when world_size does not divide num_lanes."""
        raise NotImplementedError

    def steps_per_epoch(self, batch_sequences: int) -> int:
        """Global batches of an epoch; the last one may be smaller, by as much in every lane."""
        raise NotImplementedError

    def rows_left_out(self, batch_sequences: int) -> int:
        """Sequences of an epoch in no batch: fewer than num_lanes."""
        raise NotImplementedError

    def read(self, epoch: int, first_step: int, batch_sequences: int, lanes: Sequence[int]) -> Iterator[Sequences]:
        """These lanes' part of every global batch from ``first_step`` to the epoch's end, in lane order."""
        raise NotImplementedError
