"""Several corpora in one stream of batches, each with its share of every batch; nothing depends on how many ranks read.

Every corpus has its own lanes, equally many. In step, lane l of the mixture gives so many rows of lane l of each:

    {walks: 2, sessions: 1}, 6 rows a lane and batch     lane 0   w w s w w s | w w s w w s | ...
                                                         lane 1   w w s w w s | w w s w w s | ...

An epoch has as many sequences as the corpora hold together, whatever the weights. A corpus is read on from where the
last epoch left it, and from its start again, in another order, when it ends. Where it stands is a function of
(epoch, step), so a resume is exact.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recspark.training.data import LaneReader, SequenceFiles, SequenceReader, deal_lanes, fit_lanes, lane_part
from recspark.training.lanes import LanePool, gather
from recspark.training.prefetch import prefetched
from recspark.training.sequence_files import Sequences, concatenate


def open_reader(
    corpora: Sequence[tuple[SequenceFiles, float]], num_lanes: int, seed: int, prefetch: int = 2
) -> SequenceReader:
    """The reader of one corpus, or of several by weight.

    Raises: DataError when one of them has no rows.
    """
    if len(corpora) == 1:
        return LaneReader(corpora[0][0], num_lanes, seed, prefetch)
    return MixedReader([files for files, _ in corpora], [weight for _, weight in corpora], num_lanes, seed, prefetch)


class MixedReader:
    """Reads several corpora as one; ``weights`` are the corpora's shares of the sequences, up to a factor.

    ``num_lanes`` is lowered, as by `LaneReader`, to what the smallest of them can fill.

    Raises: DataError when a corpus has no rows.
    """

    def __init__(
        self, files: Sequence[SequenceFiles], weights: Sequence[float], num_lanes: int, seed: int, prefetch: int = 2
    ) -> None:
        readers = [LaneReader(f, num_lanes, seed, prefetch=0) for f in files]
        self.num_lanes = fit_lanes(min(reader.num_rows for reader in readers), num_lanes)
        """Streams of equal length."""
        # Another seed each: corpora of equal layout must not be turned and shuffled alike.
        self._readers = [LaneReader(f, self.num_lanes, seed + k, prefetch=0) for k, f in enumerate(files)]
        self._prefetch = prefetch
        self.epoch_rows = plan_epoch([reader.lane_rows for reader in self._readers], weights)
        """Rows of every lane in an epoch, by corpus."""
        self.num_rows = sum(self.epoch_rows) * self.num_lanes
        """Sequences of an epoch."""
        self._taken = spread_evenly(self.epoch_rows)

    def rank_lanes(self, rank: int, world_size: int) -> range:
        """The lanes that a rank reads.

        Raises: TrainingError when the lanes cannot be dealt evenly.
        """
        return deal_lanes(rank, world_size, self.num_lanes, self.num_rows)

    def steps_per_epoch(self, batch_sequences: int) -> int:
        """Global batches of an epoch; the last may be smaller, by as much in every lane.

        Raises: TrainingError when the batch does not divide into lanes.
        """
        return -(-sum(self.epoch_rows) // lane_part(batch_sequences, self.num_lanes))

    def rows_left_out(self, batch_sequences: int) -> int:
        """Sequences that a pass over each corpus leaves out: fewer than ``num_lanes`` a corpus, others in each pass."""
        return sum(reader.rows_left_out(batch_sequences) for reader in self._readers)

    def read(self, epoch: int, first_step: int, batch_sequences: int, lanes: Sequence[int]) -> Iterator[Sequences]:
        """These lanes' part of every global batch from ``first_step`` to the end of the epoch, in lane order.

        Raises: TrainingError when the batch does not divide into lanes; LakeError when a file is missing or damaged.
        """
        part, total = lane_part(batch_sequences, self.num_lanes), sum(self.epoch_rows)
        first_row = min(first_step * part, total)
        streams = [
            _Passes(reader, lanes, epoch * rows + int(taken[first_row]))
            for reader, rows, taken in zip(self._readers, self.epoch_rows, self._taken, strict=True)
        ]

        def batches() -> Iterator[Sequences]:
            for start in range(first_row, total, part):
                sizes = self._taken[:, min(start + part, total)] - self._taken[:, start]
                yield interleave([s.take(int(n)) for s, n in zip(streams, sizes, strict=True)], len(lanes))

        return prefetched(batches, self._prefetch)


def plan_epoch(lane_rows: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows of a lane that an epoch takes of each corpus: by weight, together as many as there are.

    plan_epoch([100, 20], [2, 1]) == [80, 40]
    """
    total = sum(lane_rows) / sum(weights)
    return [max(1, round(total * weight)) for weight in weights]


def spread_evenly(counts: Sequence[int]) -> NDArray[np.int64]:
    """How many of the first t rows of a lane are of corpus k: int64 [K, sum + 1].

    Row i of n of a corpus belongs at (i + 1/2) / n of the epoch; of equals, the earlier corpus goes first.
    """
    corpus = np.repeat(np.arange(len(counts)), counts)
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    order = corpus[np.argsort(place, kind="stable")]
    taken = np.zeros((len(counts), len(order) + 1), np.int64)
    np.cumsum(order[None] == np.arange(len(counts))[:, None], axis=1, out=taken[:, 1:])
    return taken


def interleave(parts: list[Sequences], num_lanes: int) -> Sequences:
    """Parts that each hold equally many rows of every lane, in lane order, as one that does."""
    parts = [part for part in parts if part.num_rows]
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(part.num_rows for part in parts)])[:-1]
    rows = [start + np.arange(part.num_rows).reshape(num_lanes, -1) for start, part in zip(starts, parts, strict=True)]
    return gather(concatenate(parts), np.hstack(rows).ravel())


class _Passes:
    """One corpus read over and over, each time in another order; ``position`` counts a lane's rows over all passes."""

    def __init__(self, reader: LaneReader, lanes: Sequence[int], position: int) -> None:
        self._reader, self._lanes = reader, lanes
        self._pass, self._row = divmod(position, reader.lane_rows)
        self._pool: LanePool | None = None

    def take(self, num_rows: int) -> Sequences:
        """The next ``num_rows`` rows of every lane, in lane order."""
        parts = []
        while num_rows:
            if self._row == self._reader.lane_rows:
                self._pass, self._row, self._pool = self._pass + 1, 0, None
            self._pool = self._pool or self._reader.open(self._pass, self._lanes, self._row)
            taken = min(num_rows, self._reader.lane_rows - self._row)
            parts.append(self._pool.take(taken))
            self._row, num_rows = self._row + taken, num_rows - taken
        return interleave(parts, len(self._lanes)) if parts else concatenate([])
