"""What runs in Spark's Python workers: chunk numbers in, rows of `walks` out. Plain functions on Arrow batches.

The walks of a piece are numbered: start nodes fastest, then walk numbers, then epochs. A chunk is a range of them, so
its rows have as many different start nodes as can be. Nothing but (seed, epoch, start, walk number) decides a walk.

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
from recspark.walks.bias import Bias
from recspark.walks.graph_files import GraphFiles, open_graph
from recspark.walks.kernel import walk
from recspark.walks.pieces import Piece
from recspark.walks.starts import count_walks, cut_part, name_walks
from recspark.walks.walkers import walk_keys

NUM_SHARDS = 64
"""Column ``shard`` is `shard_of(start_idx, 64)`: a stable hash, so a few shards are a sample of the start nodes, the
same one in every epoch, at any partitioning and in every mode."""


@dataclass(frozen=True)
class WalkTask:
    """All that decides the walks of a piece, and how they are cut into chunks."""

    files: GraphFiles
    bias: Bias
    seed: int
    num_walks: int
    walk_length: int
    piece: Piece
    num_chunks: int

    def first_walk(self) -> "WalkTask":
        """The same with so many chunks that the first is a small sample."""
        return replace(self, num_chunks=1 << 40)


@dataclass(frozen=True)
class Walks:
    """A chunk of walks: the kernel's arrays beside what names each walk."""

    epochs: NDArray[np.int32]
    starts: NDArray[np.int32]
    nodes: NDArray[np.int32]
    lengths: NDArray[np.int32]


def walk_batches(chunks: Iterable[pa.RecordBatch], task: WalkTask) -> Iterator[pa.RecordBatch]:
    """Rows of `walks` for the chunks numbered in ``chunks`` (one integer column)."""
    for batch in chunks:
        for chunk in batch.column(0).to_pylist():
            yield to_batch(walk_chunk(task, chunk))


def walk_chunk(task: WalkTask, chunk: int) -> Walks:
    """The walks of one chunk."""
    graph, starts = open_graph(task.files)
    mine = cut_part(starts, task.piece.part, task.piece.num_parts)
    in_epoch = count_walks(mine, task.num_walks)
    numbers = shard_range(chunk, task.num_chunks, in_epoch * len(task.piece.epochs))
    epochs, slots = np.divmod(np.arange(numbers.start, numbers.stop, dtype=np.int64), max(1, in_epoch))
    epochs = np.array(task.piece.epochs, np.int32)[epochs]
    nodes, walk_numbers = name_walks(mine, slots)
    keys = walk_keys(task.seed, epochs, nodes, walk_numbers)
    return Walks(epochs, nodes, *walk(graph, task.bias, nodes, keys, task.walk_length))


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
