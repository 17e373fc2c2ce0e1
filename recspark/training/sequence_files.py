"""The sequence column of a pinned Delta table, down to its row groups: listed once, decoded into flat buffers.

Delta decides which files there are, their footers how many rows each row group holds; then Parquet is read directly, so
a rank touches nothing but its own rows: `walks.walk` or `sessions.item_idx` in, `Sequences` out.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from numpy.typing import NDArray

from recspark.contracts import columns as c
from recspark.errors import LakeError, first_line
from recspark.lake.arrow import TableAt, check_plain_files, list_data_files, open_table
from recspark.lake.storage import open_filesystem

MARK = 1 << 30
"""This bit is set in an item whose event is of a type that was asked for (`open_sequences`)."""
TIED = 1 << 29
"""This bit is set in an item whose event has the time of the event before it, where times were asked for."""
_FOOTER_THREADS = 16
_STREAM_ROWS = 8192


@dataclass(frozen=True)
class Sequences:
    """A ragged batch: sequence b is ``values[offsets[b]:offsets[b + 1]]``; values int32 [N], offsets int64 [B + 1].

    ``keys`` int32 [B] says whose each sequence is, where that was asked for.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]
    keys: NDArray[np.int32] | None = None

    @property
    def num_rows(self) -> int:
        """Sequences in the batch."""
        return len(self.offsets) - 1

    def slice(self, start: int, stop: int) -> "Sequences":
        """Sequences start..stop-1, without a copy; offsets need not start at 0."""
        keys = None if self.keys is None else self.keys[start:stop]
        return Sequences(self.values, self.offsets[start : stop + 1], keys)


@dataclass(frozen=True)
class RowGroup:
    """One row group of one file: its rows and the items in them."""

    path: str
    index: int
    num_rows: int
    num_values: int


@dataclass(frozen=True)
class SequenceFiles:
    """The row groups that hold a table's sequences, in an order that is the same on every rank.

    ``epochs`` has one list for a table that every training epoch reads whole (sessions), or one for each epoch of
    walks: training epoch e reads ``epochs[e % len(epochs)]``. Of each list only the first ``prefix`` values count,
    where that column is named; items of event type ``marked_type`` are read with the bit `MARK`; column ``key`` says
    whose a sequence is; by column ``time``, items are read with the bit `TIED`.
    """

    table: str
    version: int
    column: str
    epochs: tuple[tuple[RowGroup, ...], ...]
    prefix: str | None = None
    marked_type: int | None = None
    key: str | None = None
    time: str | None = None

    def of_epoch(self, epoch: int) -> tuple[RowGroup, ...]:
        """The row groups that a training epoch reads."""
        return self.epochs[epoch % len(self.epochs)]


def open_sequences(
    table: TableAt,
    column: str,
    split: str | None = None,
    prefix: str | None = None,
    marked_type: int | None = None,
    key: str | None = None,
    time: str | None = None,
) -> SequenceFiles:
    """Lists the row groups of a list<int32> column, of one ``split`` or of all.

    ``prefix`` names an int column: of a list only that many values from its start count. ``marked_type`` is a code of
    column `event_type`, ``key`` an int column such as user_idx, ``time`` a list<int64> column. A table partitioned by
    `epoch` (walks) gives a list for each of its epochs. Files are ordered by path: writers number them, so a table
    written again the same way is read in the same order.

    Raises: LakeError when the version is gone, the column is missing or no list of int32, the table has deletion
    vectors or column mapping, or a footer is missing or damaged.
    """
    delta = open_table(table.lake, table.name, table.version)
    check_plain_files(delta, table.uri)
    _check_column(delta, table.uri, column)
    partitions = delta.metadata().partition_columns
    if split is not None and c.SPLIT not in partitions:
        raise LakeError(f"{table.uri}: not partitioned by {c.SPLIT!r} (by {partitions}), so {split!r} has no files")
    chosen = {} if split is None else {c.SPLIT: split}
    epochs = []
    for epoch in _find_epochs(delta, partitions):
        epochs.append(_read_footers(list_data_files(delta, table.uri, chosen | epoch), column))
    return SequenceFiles(table.uri, table.version, column, tuple(epochs), prefix, marked_type, key, time)


def _find_epochs(delta: DeltaTable, partitions: list[str]) -> list[dict[str, str]]:
    """The partition of each epoch of walks, in order; one without values, which is all, for any other table."""
    if c.EPOCH not in partitions:
        return [{}]
    epochs = sorted({int(p[c.EPOCH]) for p in delta.partitions()})
    return [{c.EPOCH: str(epoch)} for epoch in epochs] or [{}]


def _check_column(delta: DeltaTable, uri: str, column: str) -> None:
    fields = {f.name: f.type for f in delta.schema().fields}
    if column not in fields:
        raise LakeError(f"{uri}: no column {column!r}; it has {', '.join(fields)}")
    element = getattr(fields[column], "element_type", None)
    if getattr(element, "type", None) != "integer":
        raise LakeError(f"{uri}: column {column!r} is {fields[column]}, expected a list of 32-bit integers")


def _read_footers(paths: list[str], column: str) -> tuple[RowGroup, ...]:
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        return tuple(group for groups in pool.map(lambda p: _read_footer(p, column), paths) for group in groups)


def _read_footer(path: str, column: str) -> list[RowGroup]:
    with _open_parquet(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [RowGroup(path, i, g.num_rows, _count_values(g, column)) for i, g in enumerate(groups) if g.num_rows]


def _count_values(group: pq.RowGroupMetaData, column: str) -> int:
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(int(chunk.num_values) for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def read_row_group(group: RowGroup, files: SequenceFiles) -> Iterator[Sequences]:
    """A row group's sequences, decoded a few thousand at a time.

    Raises: LakeError when the file is missing, cut short or damaged.
    """
    columns = [files.column]
    columns += [name for name in (files.prefix, files.key, files.time) if name]
    columns += [] if files.marked_type is None else [c.EVENT_TYPE]
    with _open_parquet(group.path) as file:
        for batch in file.iter_batches(_STREAM_ROWS, row_groups=[group.index], columns=columns, use_threads=False):
            yield _read_batch(batch, files, group.path)


def _read_batch(batch: pa.RecordBatch, files: SequenceFiles, path: str) -> Sequences:
    """A decoded batch's sequences, marked and cut as the files say."""
    sequences = _flatten(batch.column(files.column), path, files.column)
    if files.marked_type is not None:
        types = _flatten(batch.column(c.EVENT_TYPE), path, c.EVENT_TYPE)
        sequences = _mark(sequences, types, files.marked_type, path)
    if files.time:
        sequences = _tie(sequences, batch.column(files.time), path)
    if files.prefix:
        sequences = _cut(sequences, batch.column(files.prefix).to_numpy())
    return replace(sequences, keys=batch.column(files.key).to_numpy()) if files.key else sequences


def decode_row_group(group: RowGroup, files: SequenceFiles) -> Sequences:
    """A row group's sequences, whole."""
    return concatenate(list(read_row_group(group, files)))


def concatenate(parts: list[Sequences]) -> Sequences:
    """The sequences of several batches in one, with offsets from 0; a copy."""
    offsets = np.zeros(sum(p.num_rows for p in parts) + 1, np.int64)
    row = 0
    for p in parts:
        np.add(p.offsets[1:], offsets[row] - p.offsets[0], out=offsets[row + 1 : row + 1 + p.num_rows])
        row += p.num_rows
    values = [p.values[p.offsets[0] : p.offsets[-1]] for p in parts]
    keys = [p.keys for p in parts if p.keys is not None]
    return Sequences(np.concatenate([np.empty(0, np.int32), *values]), offsets, np.concatenate(keys) if keys else None)


def _flatten(lists: pa.ListArray, path: str, column: str) -> Sequences:
    if lists.values.null_count:
        raise LakeError(f"{path}: column {column!r} holds null items; expected none")
    return Sequences(lists.values.to_numpy(), lists.offsets.to_numpy().astype(np.int64))


def _cut(whole: Sequences, num_values: NDArray[np.int32]) -> Sequences:
    """The first ``num_values`` of each sequence."""
    lengths = np.diff(whole.offsets)
    place = np.arange(whole.offsets[0], whole.offsets[-1]) - np.repeat(whole.offsets[:-1], lengths)
    kept = place < np.repeat(num_values, lengths)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, num_values), dtype=np.int64)])
    return Sequences(whole.values[whole.offsets[0] : whole.offsets[-1]][kept], offsets)


def _mark(items: Sequences, types: Sequences, marked_type: int, path: str) -> Sequences:
    """The items, those of the type with `MARK`."""
    own, of_types = (s.values[s.offsets[0] : s.offsets[-1]] for s in (items, types))
    if not np.array_equal(np.diff(items.offsets), np.diff(types.offsets)):
        raise LakeError(f"{path}: rows with more items than event types, or fewer; build the table again")
    marked = own | np.where(of_types == marked_type, np.int32(MARK), np.int32(0))
    return Sequences(marked, items.offsets - items.offsets[0])


def _tie(items: Sequences, times: pa.ListArray, path: str) -> Sequences:
    """The items, those of the same time as the one before them in their row with `TIED`."""
    if not np.array_equal(times.offsets.to_numpy() - times.offsets[0].as_py(), items.offsets - items.offsets[0]):
        raise LakeError(f"{path}: rows with more items than times, or fewer; build the table again")
    own, ts = items.values[items.offsets[0] : items.offsets[-1]], times.flatten().to_numpy()
    is_tied = np.zeros(len(own), np.bool_)
    is_tied[1:] = ts[1:] == ts[:-1]
    starts = (items.offsets - items.offsets[0])[:-1]
    is_tied[starts[starts < len(own)]] = False
    return Sequences(own | np.where(is_tied, np.int32(TIED), np.int32(0)), items.offsets - items.offsets[0])


@contextmanager
def _open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, streamed: without pre-buffering, so that many lanes can stand in many row groups at once."""
    advice = "run the stage that writes the table again"
    try:
        filesystem, inner = open_filesystem(path)
        with pq.ParquetFile(
            inner, filesystem=filesystem, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
        ) as file:
            yield file
    except FileNotFoundError as error:
        raise LakeError(f"{path}: missing, but listed in the table's log; {advice}") from error
    except (pa.ArrowException, OSError) as error:
        raise LakeError(f"{path}: cut short or damaged ({first_line(error)}); {advice}") from error
