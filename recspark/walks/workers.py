"""What runs in Spark's Python workers: chunk numbers in, rows of `walks` out. Plain functions on Arrow batches.

All walks of a build are numbered: start nodes fastest, then walk numbers, then epochs. A chunk is a range of them, so
its rows have as many different start nodes as can be. Nothing but the number decides what a walk is.

    chunk 17  ->  epoch 0, shard 43, start_idx 2210, walk [2210, 871, 16, 871, ...]
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.contracts.shards import shard_of, shard_range
from recspark.contracts.tables import WALKS
from recspark.walks.graph_files import GraphFiles, open_graph
from recspark.walks.kernel import BLOCK_SIZE, walk, walk_keys
from recspark.walks.walk_graph import Bias

NUM_SHARDS = 64
"""Column ``shard`` is `shard_of(start_idx, 64)`: a stable hash, so a few shards are a sample of the start nodes, the
same one in every epoch, at any partitioning and in every mode."""

CHUNK_SCHEMA = pa.schema([("num_walks", pa.int64()), ("tokens", pa.int64()), ("dead_ends", pa.int64())])


@dataclass(frozen=True)
class WalkTask:
    """All that decides the walks of a build, and how they are cut into chunks."""

    files: GraphFiles
    bias: Bias
    seed: int
    num_starts: int
    num_walks: int
    num_epochs: int
    walk_length: int
    num_chunks: int

    @property
    def total_walks(self) -> int:
        """Walks of all epochs."""
        return self.num_starts * self.num_walks * self.num_epochs

    def first_walk(self) -> "WalkTask":
        """The same with one chunk a walk, of which the first is a small sample."""
        return replace(self, num_chunks=self.total_walks)


@dataclass(frozen=True)
class Walks:
    """A chunk of walks: the kernel's arrays beside what names each walk."""

    epochs: NDArray[np.int32]
    starts: NDArray[np.int32]
    nodes: NDArray[np.int32]
    lengths: NDArray[np.int32]


def walk_batches(chunks: Iterable[pa.RecordBatch], task: WalkTask) -> Iterator[pa.RecordBatch]:
    """Rows of `walks` for the chunks numbered in ``chunks`` (one integer column)."""
    for walks in _walk_chunks(chunks, task):
        yield to_batch(walks)


def count_batches(chunks: Iterable[pa.RecordBatch], task: WalkTask) -> Iterator[pa.RecordBatch]:
    """One row a chunk: how many walks and tokens `walk_batches` yields, and how many walks stop at a dead end."""
    for walks in _walk_chunks(chunks, task):
        counts = (len(walks.lengths), int(walks.lengths.sum()), int((walks.lengths < task.walk_length).sum()))
        yield pa.RecordBatch.from_arrays([pa.array([n], pa.int64()) for n in counts], schema=CHUNK_SCHEMA)


def _walk_chunks(chunks: Iterable[pa.RecordBatch], task: WalkTask) -> Iterator[Walks]:
    for batch in chunks:
        for chunk in batch.column(0).to_pylist():
            yield walk_chunk(task, chunk)


def walk_chunk(task: WalkTask, chunk: int) -> Walks:
    """The walks of one chunk."""
    graph, all_starts = open_graph(task.files)
    mine = shard_range(chunk, task.num_chunks, task.total_walks)
    numbers, places = np.divmod(np.arange(mine.start, mine.stop, dtype=np.int64), task.num_starts)
    epochs, numbers = (part.astype(np.int32) for part in np.divmod(numbers, task.num_walks))
    starts = np.asarray(all_starts)[places]
    nodes, lengths = np.empty((len(mine), task.walk_length), np.int32), np.empty(len(mine), np.int32)
    walk(graph, task.bias, starts, walk_keys(task.seed, epochs, starts, numbers), nodes, lengths, BLOCK_SIZE)
    return Walks(epochs, starts, nodes, lengths)


def to_batch(walks: Walks) -> pa.RecordBatch:
    """Rows of `walks`; mapInArrow casts nothing, so the list type has to be the contract's own."""
    walk_length = walks.nodes.shape[1]
    offsets = np.zeros(len(walks.lengths) + 1, np.int32)
    np.cumsum(walks.lengths, out=offsets[1:])
    is_full = bool((walks.lengths == walk_length).all())
    values = walks.nodes.ravel() if is_full else walks.nodes[np.arange(walk_length) < walks.lengths[:, None]]
    columns = {
        c.EPOCH: pa.array(walks.epochs),
        c.SHARD: pa.array(shard_of(walks.starts, NUM_SHARDS)),
        c.START_IDX: pa.array(walks.starts),
        c.WALK: pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=WALKS.schema.field(c.WALK).type),
    }
    return pa.RecordBatch.from_pydict(columns, schema=WALKS.schema)
