"""What a worker does with one shard: walkers in, each walks until it is finished or leaves, messages out.

Second order asks whether there is an edge from the previous node t to a proposal x. Inside a shard t's row is there. A
walker that leaves takes t's row along, once a message for all that left from t, so nobody ever asks another shard.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.contracts.shards import hash_ids
from recspark.walks.bias import Bias
from recspark.walks.kernel import BLOCK_SIZE, advance
from recspark.walks.messages import NOWHERE, Message, from_bytes, join_messages, no_lists, to_row, to_walkers
from recspark.walks.pieces import Piece
from recspark.walks.shard_files import ShardFiles, open_shard
from recspark.walks.starts import Degrees, count_walks, cut_part, find_starts, name_walks, part_of
from recspark.walks.walk_graph import WalkGraph
from recspark.walks.walkers import NO_NODE, Walkers
from recspark.walks.workers import Walks, to_batch

BURST_WALKERS = 50_000
"""Walkers that advance at once: what a worker holds beside its shard is a few of their messages."""
FLUSH_BYTES = 16 << 20


@dataclass(frozen=True)
class ShardTask:
    """All that decides the walks of a piece in sharded mode."""

    files: ShardFiles
    bias: Bias
    seed: int
    num_walks: int
    walk_length: int
    by_degree: Degrees | None
    piece: Piece
    num_files: int


def begin_batches(shards: Iterable[pa.RecordBatch], task: ShardTask) -> Iterator[pa.RecordBatch]:
    """The first burst: a shard's own starts, for the shards numbered in ``shards`` (one integer column)."""
    for batch in shards:
        for shard in batch.column(0).to_pylist():
            yield from _burst(shard, _new_messages(shard, task), task)


def burst_batches(rows: Iterable[pa.RecordBatch], task: ShardTask) -> Iterator[pa.RecordBatch]:
    """A further burst: messages to one shard, as Spark partitions them."""
    messages, shards = (_read_messages(rows)), set[int]()
    waiting: list[Message] = []
    outbox = _Outbox(task)
    for shard, message in messages:
        shards.add(shard)
        assert len(shards) == 1, "a partition holds the messages of one shard"
        waiting.append(message)
        if sum(m.num_walkers for m in waiting) >= BURST_WALKERS:
            outbox.add(shard, join_messages(waiting))
            waiting = []
            yield from outbox.flush(FLUSH_BYTES)
    if waiting:
        outbox.add(shards.pop(), join_messages(waiting))
    yield from outbox.flush(0)


def finished_batches(rows: Iterable[pa.RecordBatch], task: ShardTask) -> Iterator[pa.RecordBatch]:
    """Rows of `walks` from messages of finished walks to one file, in an order that no sharding changes."""
    messages = [from_bytes(p.as_buffer()) for batch in rows for p in batch.column("payload")]
    if not messages:
        return
    found = join_messages(messages)
    messages.clear()
    starts = found.nodes[:, 0]
    order = np.lexsort((starts, hash_ids(starts), found.numbers, found.epochs))
    nodes = np.zeros((len(order), task.walk_length), np.int32)
    nodes[:, : found.nodes.shape[1]] = found.nodes[order]
    for low in range(0, len(order), BURST_WALKERS):
        some = slice(low, low + BURST_WALKERS)
        mine = order[some]
        yield to_batch(Walks(found.epochs[mine], starts[mine], nodes[some], found.filled[mine]))


def _read_messages(rows: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Message]]:
    for batch in rows:
        for shard, payload in zip(batch.column("shard").to_pylist(), batch.column("payload"), strict=True):
            yield shard, from_bytes(payload.as_buffer())


def _new_messages(shard: int, task: ShardTask) -> Iterator[Message]:
    """Walks of a shard's own starts, that have not left them yet."""
    graph, first, edges_before = open_shard(task.files, shard)
    degrees = task.by_degree and task.by_degree._replace(edges_before=edges_before)
    starts = find_starts(np.asarray(graph.indptr), first=first, num_walks=task.num_walks, by_degree=degrees)
    mine = cut_part(starts, task.piece.part, task.piece.num_parts)
    in_epoch = count_walks(mine, task.num_walks)
    for epoch in task.piece.epochs:
        for low in range(0, in_epoch, BURST_WALKERS):
            slots = np.arange(low, min(low + BURST_WALKERS, in_epoch), dtype=np.int64)
            nodes, numbers = name_walks(mine, slots)
            ones, nobody = np.ones(len(nodes), np.int32), np.full(len(nodes), NO_NODE, np.int32)
            epochs = np.full(len(nodes), epoch, np.int32)
            yield Message(epochs, numbers, ones, nobody, nodes[:, None], nobody, *no_lists())


def _burst(shard: int, messages: Iterable[Message], task: ShardTask) -> Iterator[pa.RecordBatch]:
    outbox = _Outbox(task)
    for message in messages:
        outbox.add(shard, message)
        yield from outbox.flush(FLUSH_BYTES)
    yield from outbox.flush(0)


class _Outbox:
    """Walks that have to go on elsewhere, or are finished, by where they go."""

    def __init__(self, task: ShardTask) -> None:
        self._task = task
        self._waiting: dict[tuple[int, int], list[Message]] = {}
        self._num_bytes = 0

    def add(self, shard: int, message: Message) -> None:
        """Lets the walkers of a message walk in a shard, and sorts them by where they went."""
        graph, first, _ = open_shard(self._task.files, shard)
        walkers = to_walkers(message, self._task.seed, self._task.walk_length)
        advance(graph, self._task.bias, first, walkers, BLOCK_SIZE)
        shards, files = self._addresses(graph, first, walkers)
        width = self._task.num_files + len(self._task.files.bounds)
        places = np.where(shards == NOWHERE, files, shards + self._task.num_files)
        order = np.argsort(places, kind="stable")
        ends = np.cumsum(np.bincount(places, minlength=width))
        for rows in np.split(order, ends[:-1]):
            if len(rows):
                address = int(shards[rows[0]]), int(files[rows[0]])
                self._put(address, _pick(graph, first, message, walkers, rows, self._carries(address)))

    def flush(self, limit: int) -> Iterator[pa.RecordBatch]:
        """All messages, once they are larger than ``limit`` together."""
        if self._num_bytes <= limit:
            return
        for (shard, file), messages in sorted(self._waiting.items()):
            yield to_row(shard, file, join_messages(messages))
        self._waiting, self._num_bytes = {}, 0

    def _put(self, address: tuple[int, int], message: Message) -> None:
        self._waiting.setdefault(address, []).append(message)
        self._num_bytes += message.num_bytes

    def _carries(self, address: tuple[int, int]) -> bool:
        """Whether walkers take their previous node's row along: q = 1 never asks for it."""
        return address[0] != NOWHERE and self._task.bias.is_second_order and self._task.bias.inverse_q != 1.0

    def _addresses(self, graph: WalkGraph, first: int, walkers: Walkers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(shard, file) of each walker; one of them is `NOWHERE`."""
        last = walkers.nodes[np.arange(len(walkers.filled)), walkers.filled - 1].astype(np.int64)
        is_here = (last >= first) & (last < first + len(graph.indptr) - 1)
        is_finished = is_here | (walkers.filled == walkers.nodes.shape[1])  # full, or at a dead end
        shards = np.searchsorted(self._task.files.bounds, last, side="right") - 1
        files = part_of(walkers.nodes[:, 0], self._task.num_files)
        return np.where(is_finished, NOWHERE, shards), np.where(is_finished, files, NOWHERE)


def _pick(
    graph: WalkGraph, first: int, message: Message, walkers: Walkers, rows: NDArray[np.int64], carries: bool
) -> Message:
    """The message of some of the walkers; ``carries`` their previous nodes' rows."""
    filled, previous = walkers.filled[rows], walkers.previous[rows]
    near_row, lists = np.full(len(rows), NO_NODE, np.int32), no_lists()
    if carries:
        left, near_row = _number(previous)
        lists = _gather(graph, left - first)
    nodes = walkers.nodes[rows, : filled.max()]
    return Message(message.epochs[rows], message.numbers[rows], filled, previous, nodes, near_row, *lists)


def _number(previous: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(distinct previous nodes, the place of each walker's among them or -1)."""
    left, places = np.unique(previous, return_inverse=True)
    num_nobody = int(len(left) > 0 and left[0] == NO_NODE)
    return left[num_nobody:].astype(np.int64), (places - num_nobody).astype(np.int32)


def _gather(
    graph: WalkGraph, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """(indptr, neighbours, weights) of some rows of a shard; weights for node2vec+ only."""
    lows, degrees = graph.indptr[rows], graph.indptr[rows + 1] - graph.indptr[rows]
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    edges = np.arange(indptr[-1]) + np.repeat(lows - indptr[:-1], degrees)
    weights = graph.weights[edges] if len(graph.thresholds) else np.empty(0, np.float32)
    return indptr, graph.indices[edges], weights
