"""What travels between shards: walkers with their walks so far and, of those that moved, their previous node's row.

    3 walkers, 2 of them from node 7  ->  one row {shard: 4, file: -1, walkers: 3, payload: <bytes>} with 7's row once

A payload is numpy arrays in a row, each with its header. Finished walks are the same, addressed to a file.
"""

import io
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recspark.walks.walkers import Walkers, walk_keys

NOWHERE = -1
SCHEMA = pa.schema([("shard", pa.int32()), ("file", pa.int32()), ("walkers", pa.int64()), ("payload", pa.binary())])
"""``shard`` is where walkers go on, `NOWHERE` for finished ones; those belong to ``file``."""


class Message(NamedTuple):
    """w walkers: what names them, and their state as in `Walkers`; ``nodes`` is as wide as the longest walk."""

    epochs: NDArray[np.int32]
    numbers: NDArray[np.int32]
    filled: NDArray[np.int32]
    previous: NDArray[np.int32]
    nodes: NDArray[np.int32]
    near_row: NDArray[np.int32]
    near_indptr: NDArray[np.int64]
    near: NDArray[np.int32]
    near_weights: NDArray[np.float32]

    @property
    def num_walkers(self) -> int:
        """Walkers in it."""
        return len(self.filled)

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return sum(array.nbytes for array in self)


def no_lists() -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Carried lists of nobody."""
    return np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)


def to_bytes(message: Message) -> bytes:
    """The payload of a row."""
    stream = io.BytesIO()
    for array in message:
        np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def from_bytes(payload: Any) -> Message:
    """The message in a payload."""
    stream = io.BytesIO(payload)
    return Message(*(np.lib.format.read_array(stream, allow_pickle=False) for _ in Message._fields))


def join_messages(messages: list[Message]) -> Message:
    """All walkers in one message."""
    if len(messages) == 1:
        return messages[0]
    columns = dict(zip(Message._fields, zip(*messages, strict=True), strict=True))
    width = max(nodes.shape[1] for nodes in columns["nodes"])
    columns["nodes"] = tuple(np.pad(n, ((0, 0), (0, width - n.shape[1]))) for n in columns["nodes"])
    lists = np.cumsum([0, *(len(m.near_indptr) - 1 for m in messages)])
    values = np.cumsum([0, *(len(m.near) for m in messages)])
    columns["near_row"] = tuple(
        np.where(m.near_row >= 0, m.near_row + n, m.near_row).astype(np.int32)
        for m, n in zip(messages, lists[:-1], strict=True)
    )
    indptrs = [m.near_indptr[1:] + n for m, n in zip(messages, values[:-1], strict=True)]
    columns["near_indptr"] = (np.zeros(1, np.int64), *indptrs)
    return Message(*(np.concatenate(columns[name]) for name in Message._fields))


def to_walkers(message: Message, seed: int, walk_length: int) -> Walkers:
    """The walkers, ready to advance."""
    nodes = np.zeros((message.num_walkers, walk_length), np.int32)
    nodes[:, : message.nodes.shape[1]] = message.nodes
    keys = walk_keys(seed, message.epochs, np.ascontiguousarray(nodes[:, 0]), message.numbers)
    lists = message.near_indptr, message.near, message.near_weights
    for array in lists:
        array.flags.writeable = False  # as all that the kernel only reads
    return Walkers(keys, nodes, message.filled.copy(), message.previous.copy(), message.near_row.copy(), *lists)


def to_row(shard: int, file: int, message: Message) -> pa.RecordBatch:
    """One row of `SCHEMA`."""
    values = ([shard], [file], [message.num_walkers], [to_bytes(message)])
    return pa.RecordBatch.from_arrays([pa.array(v, f.type) for v, f in zip(values, SCHEMA, strict=True)], schema=SCHEMA)
