"""Lanes: every row once, the same batches for any number of ranks, exact resume, plain words for damaged files."""

import dataclasses
import itertools
import json
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from recspark.contracts.commits import CommitRecord
from recspark.errors import DataError, LakeError, TrainingError
from recspark.lake.arrow import TableAt, table_uri
from recspark.training import data, lanes
from recspark.training.data import LaneReader, SequenceFiles, Sequences, fit_lanes, open_sequences, prefetched

RECORD = CommitRecord("walks", "key", "run", True, "0")


def make_sequences(first: int, num_rows: int) -> pa.Array:
    """Row r holds r, repeated 0 to 4 times after the first; so a row that is cut or mixed up shows."""
    lists = [[r] * (1 + r * 7 % 5) for r in range(first, first + num_rows)]
    return pa.array(lists, pa.list_(pa.int32()))


def write_sequences(lake: str, file_rows: list[int], group_rows: int = 1000, name: str = "walks", **columns) -> TableAt:
    """A table with one file for each number of rows, cut into row groups."""
    first = 0
    for num_rows in file_rows:
        content = {"walk": make_sequences(first, num_rows), **{k: [v] * num_rows for k, v in columns.items()}}
        write_deltalake(
            table_uri(lake, name),
            pa.table(content),
            mode="append",
            partition_by=list(columns) or None,
            writer_properties=WriterProperties(max_row_group_size=group_rows),
        )
        first += num_rows
    return TableAt(lake, name, DeltaTable(table_uri(lake, name)).version(), RECORD)


def rows_of(batch: Sequences) -> list[int]:
    """Each row's number, after checking that the row is whole."""
    numbers = []
    for start, stop in zip(batch.offsets, batch.offsets[1:], strict=False):
        row = batch.values[start:stop].tolist()
        assert row == [row[0]] * (1 + row[0] * 7 % 5)
        numbers.append(row[0])
    return numbers


def read_rows(reader: LaneReader, epoch: int, batch: int, lanes=None, first_step: int = 0) -> list[list[int]]:
    chosen = range(reader.num_lanes) if lanes is None else lanes
    return [rows_of(b) for b in reader.read(epoch, first_step, batch, chosen)]


def flat(steps) -> list[int]:
    return list(itertools.chain.from_iterable(steps))


@pytest.fixture(scope="module")
def layouts(tmp_path_factory) -> list[SequenceFiles]:
    """Tables of random files and row groups, from one row to a few thousand."""
    rng = np.random.default_rng(3)
    tables = []
    for n in range(8):
        file_rows = [int(r) for r in rng.integers(1, 1 + 4 ** (n % 4 + 2), rng.integers(1, 6))]
        lake = str(tmp_path_factory.mktemp(f"layout{n}"))
        tables.append(open_sequences(write_sequences(lake, file_rows, int(rng.integers(5, 400))), "walk"))
    return tables


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Small enough that small tables have several blocks a lane and chunks a row group."""
    monkeypatch.setattr(lanes, "BLOCK_ROWS", 13)
    monkeypatch.setattr("recspark.training.sequence_files._STREAM_ROWS", 7)


some_reader = {
    "layout": st.integers(0, 7),
    "seed": st.integers(0, 2**40),
    "epoch": st.integers(0, 50),
    "num_lanes": st.sampled_from([1, 2, 4, 8, 12, 16]),
    "part": st.integers(1, 9),
    "cache_bytes": st.sampled_from([0, 1 << 30]),
}


def open_reader(layouts, layout, seed, num_lanes, cache_bytes) -> LaneReader:
    return LaneReader(layouts[layout], num_lanes, seed, prefetch=0, cache_bytes=cache_bytes)


def test_row_groups_are_listed_with_their_rows(lake):
    files = open_sequences(write_sequences(lake, [25, 7], group_rows=10), "walk")
    [groups] = files.epochs
    assert Counter(g.num_rows for g in groups) == {10: 2, 5: 1, 7: 1}
    assert sum(g.num_values for g in groups) == sum(1 + r * 7 % 5 for r in [*range(25), *range(7)])
    assert [g.path for g in groups] == sorted(g.path for g in groups)


@settings(max_examples=60, deadline=None)
@given(**some_reader)
def test_an_epoch_holds_every_row_once_but_the_counted_rest(layouts, layout, seed, epoch, num_lanes, part, cache_bytes):
    reader = open_reader(layouts, layout, seed, num_lanes, cache_bytes)
    batch = part * reader.num_lanes
    steps = read_rows(reader, epoch, batch)
    seen = Counter(r for step in steps for r in step)
    total = sum(g.num_rows for g in layouts[layout].of_epoch(epoch))
    left_out = reader.rows_left_out(batch)
    assert set(seen.values()) == {1}
    assert set(seen) <= set(range(total))
    assert len(seen) == total - left_out == reader.num_rows - left_out
    assert left_out < reader.num_lanes
    assert len(steps) == reader.steps_per_epoch(batch)
    assert {len(s) for s in steps[:-1]} <= {batch}
    assert 0 < len(steps[-1]) <= batch


@settings(max_examples=40, deadline=None)
@given(**some_reader)
def test_any_number_of_ranks_sees_the_same_global_batches(layouts, layout, seed, epoch, num_lanes, part, cache_bytes):
    reader = open_reader(layouts, layout, seed, num_lanes, cache_bytes)
    batch = part * reader.num_lanes
    alone = read_rows(reader, epoch, batch)
    for world_size in (w for w in (1, 2, 4) if reader.num_lanes % w == 0):
        ranks = [read_rows(reader, epoch, batch, reader.rank_lanes(r, world_size)) for r in range(world_size)]
        assert [flat(parts) for parts in zip(*ranks, strict=True)] == alone
        assert len({tuple(map(len, rank)) for rank in ranks}) == 1


@settings(max_examples=60, deadline=None)
@given(**some_reader, stop=st.floats(0, 1))
def test_resume_reads_the_tail_of_the_undisturbed_epoch(
    layouts, layout, seed, epoch, num_lanes, part, cache_bytes, stop
):
    reader = open_reader(layouts, layout, seed, num_lanes, cache_bytes)
    batch = part * reader.num_lanes
    whole = read_rows(reader, epoch, batch)
    first_step = int(stop * len(whole))
    resumed = open_reader(layouts, layout, seed, num_lanes, cache_bytes)
    assert read_rows(resumed, epoch, batch, first_step=first_step) == whole[first_step:]


def test_streamed_and_kept_tables_give_the_same_batches(layouts):
    for layout in range(len(layouts)):
        kept, streamed = (open_reader(layouts, layout, 5, 8, size) for size in (1 << 30, 0))
        assert read_rows(kept, 2, 24 * kept.num_lanes) == read_rows(streamed, 2, 24 * kept.num_lanes)


def test_batches_do_not_depend_on_prefetching(layouts):
    read_ahead = LaneReader(layouts[3], 4, 1, prefetch=3)
    assert read_rows(read_ahead, 0, 8) == read_rows(open_reader(layouts, 3, 1, 4, 1 << 30), 0, 8)


def test_epochs_and_seeds_differ_and_repeat(layouts):
    readers = {seed: open_reader(layouts, 3, seed, 4, 1 << 30) for seed in (1, 2)}
    orders = {(s, e): flat(read_rows(readers[s], e, 64)) for s in (1, 2) for e in (0, 1)}
    assert len({tuple(o) for o in orders.values()}) == 4
    assert flat(read_rows(open_reader(layouts, 3, 1, 4, 1 << 30), 1, 64)) == orders[1, 1]


def test_rows_are_shuffled_across_the_table(lake):
    reader = LaneReader(open_sequences(write_sequences(lake, [4000], group_rows=100), "walk"), 4, 1)
    steps = read_rows(reader, 0, 400)
    order = np.array(flat(steps))
    assert (np.diff(order) == 1).mean() < 0.1  # neighbours in the table rarely stay neighbours
    assert all(np.ptp(step) > 1500 for step in steps)  # and a batch spans the table


def test_the_rest_changes_with_the_epoch_even_in_one_row_group(lake):
    reader = LaneReader(open_sequences(write_sequences(lake, [103]), "walk"), 16, 1)
    left_out = [set(range(103)) - set(flat(read_rows(reader, e, 16))) for e in range(12)]
    assert {len(r) for r in left_out} == {reader.rows_left_out(16)} == {7}
    assert len(set.union(*left_out)) > 40


def test_steps_worked_by_hand(lake):
    reader = LaneReader(open_sequences(write_sequences(lake, [50, 53]), "walk"), 4, 1)
    # 103 rows = 4 lanes of 25 and 3 left out; batches of 12 take 3 of each lane: 8 whole ones and one of 4.
    assert (reader.num_rows, reader.num_lanes, reader.lane_rows) == (103, 4, 25)
    assert (reader.steps_per_epoch(12), reader.rows_left_out(12)) == (9, 3)
    assert [len(s) for s in read_rows(reader, 0, 12)] == [12] * 8 + [4]


@pytest.mark.parametrize(
    ("num_rows", "asked", "fitted"), [(1, 64, 1), (8, 64, 2), (255, 64, 32), (256, 64, 64), (100, 48, 24), (50, 7, 7)]
)
def test_small_tables_get_fewer_lanes(num_rows, asked, fitted):
    assert fit_lanes(num_rows, asked) == fitted


def test_walk_epochs_take_turns(lake):
    for walk_epoch in (0, 1, 2):
        table = write_sequences(lake, [10 + walk_epoch], epoch=walk_epoch)
    files = open_sequences(table, "walk")
    assert [sum(g.num_rows for g in groups) for groups in files.epochs] == [10, 11, 12]
    reader = LaneReader(files, 1, 1)
    assert reader.num_rows == 10
    for epoch in range(6):
        rows = flat(read_rows(reader, epoch, 4))
        assert len(rows) == 10
        assert set(rows) <= set(range(10 + epoch % 3))


def test_only_the_split_asked_for_is_read(lake):
    for split in ("train", "test"):
        table = write_sequences(lake, [10 if split == "train" else 99], name="sessions", split=split)
    [groups] = open_sequences(table, "walk", split="train").epochs
    assert sum(g.num_rows for g in groups) == 10
    assert all("split=train" in g.path for g in groups)


def test_an_older_version_is_read_as_it_was(lake):
    first = write_sequences(lake, [10])
    write_sequences(lake, [20])
    assert LaneReader(open_sequences(first, "walk"), 1, 1).num_rows == 10


def test_empty_rows_stay_rows(lake):
    lists = pa.array([[1], [], [2, 3], [], []], pa.list_(pa.int32()))
    write_deltalake(table_uri(lake, "walks"), pa.table({"walk": lists}))
    [batch] = LaneReader(open_sequences(TableAt(lake, "walks", 0, RECORD), "walk"), 1, 1).read(0, 0, 5, [0])
    assert sorted(np.diff(batch.offsets).tolist()) == [0, 0, 0, 1, 2]
    assert sorted(batch.values.tolist()) == [1, 2, 3]
    assert (batch.values.dtype, batch.offsets.dtype) == (np.int32, np.int64)


def test_a_batch_that_does_not_divide_is_refused_with_values_that_do(lake):
    reader = LaneReader(open_sequences(write_sequences(lake, [500]), "walk"), 64, 1)
    with pytest.raises(TrainingError, match=r"batch_sequences: 100 is no multiple of the 64 lanes; use 64 or 128"):
        reader.steps_per_epoch(100)
    with pytest.raises(TrainingError, match=r"use 64, or change"):
        reader.read(0, 0, 10, [0])


def test_ranks_that_cannot_share_the_lanes_are_refused(lake):
    reader = LaneReader(open_sequences(write_sequences(lake, [40]), "walk"), 64, 1)
    with pytest.raises(TrainingError, match=r"3 ranks cannot share 8 lanes evenly \(40 sequences\); use 1, 2, 4 or 8"):
        reader.rank_lanes(0, 3)
    assert [list(reader.rank_lanes(r, 4)) for r in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_an_empty_table_is_refused(lake):
    with pytest.raises(DataError, match=r"walks: no sequences at version 0; nothing to train on"):
        LaneReader(open_sequences(write_sequences(lake, [0]), "walk"), 64, 1)


def test_a_missing_column_is_named_beside_those_there(lake):
    with pytest.raises(LakeError, match=r"no column 'path'; it has walk"):
        open_sequences(write_sequences(lake, [5]), "path")


def test_a_column_of_another_type_is_refused(lake):
    write_deltalake(table_uri(lake, "walks"), pa.table({"walk": pa.array([[1]], pa.list_(pa.int64()))}))
    with pytest.raises(LakeError, match=r"column 'walk' is .*long.*, expected a list of 32-bit integers"):
        open_sequences(TableAt(lake, "walks", 0, RECORD), "walk")


def test_a_split_of_an_unpartitioned_table_is_refused(lake):
    with pytest.raises(LakeError, match=r"not partitioned by 'split'"):
        open_sequences(write_sequences(lake, [5]), "walk", split="train")


def test_null_items_are_refused(lake):
    lists = pa.array([[1, None]], pa.list_(pa.int32()))
    write_deltalake(table_uri(lake, "walks"), pa.table({"walk": lists}))
    reader = LaneReader(open_sequences(TableAt(lake, "walks", 0, RECORD), "walk"), 1, 1)
    with pytest.raises(LakeError, match=r"column 'walk' holds null items"):
        list(reader.read(0, 0, 1, [0]))


def test_a_version_that_is_gone_is_refused(lake):
    with pytest.raises(LakeError, match="version 9 is gone or unreadable"):
        open_sequences(dataclasses.replace(write_sequences(lake, [5]), version=9), "walk")


def test_deletion_vectors_are_refused_whatever_the_property_says(lake):
    """The log of a table from which Delta deleted row 3: the property is not set, the file still holds the row."""
    table = write_sequences(lake, [5])
    log = Path(table.uri, "_delta_log", "00000000000000000000.json")
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "protocol" in action:
            features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
            action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7} | features
        if "add" in action:
            row_3 = "^Bg9^0rr910000000000iXQKl0rr91000005c8Xg0@@r3"  # a roaring bitmap in Z85
            vector = {"storageType": "i", "pathOrInlineDv": row_3, "sizeInBytes": 34, "cardinality": 1}
            action["add"]["deletionVector"] = vector
    log.write_text("\n".join(map(json.dumps, actions)))
    with pytest.raises(LakeError, match="version 0 has deletion vectors on 1 of its files"):
        open_sequences(table, "walk")


@pytest.mark.parametrize("damage", ["cut short", "footer", "missing"])
def test_a_damaged_file_is_named_when_listed(lake, damage):
    table = write_sequences(lake, [500])
    [path] = Path(table.uri).glob("*.parquet")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut short" else content[:-4] + b"junk")
    with pytest.raises(LakeError, match=f"{path.name}: {'missing' if damage == 'missing' else 'cut short or damaged'}"):
        open_sequences(table, "walk")


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_file_damaged_after_listing_is_named_when_read(lake, prefetch):
    table = write_sequences(lake, [500])
    reader = LaneReader(open_sequences(table, "walk"), 4, 1, prefetch=prefetch)
    [path] = Path(table.uri).glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(LakeError, match=f"{path.name}: cut short or damaged"):
        list(reader.read(0, 0, 8, range(4)))


def test_resume_reads_no_file_before_its_place(lake, monkeypatch):
    table = write_sequences(lake, [100] * 10)
    reader = LaneReader(open_sequences(table, "walk"), 1, 1, prefetch=0, cache_bytes=0)
    opened = []
    read = data.read_row_group
    monkeypatch.setattr(data, "read_row_group", lambda group, files: opened.append(group) or read(group, files))
    list(reader.read(0, 900, 1, [0]))
    assert 1 <= len(opened) <= 3  # the last 100 rows, from the start of their block: two row groups, or three turned


def test_python_does_not_touch_single_rows(lake, monkeypatch):
    monkeypatch.setattr(lanes, "BLOCK_ROWS", 2048)
    monkeypatch.setattr("recspark.training.sequence_files._STREAM_ROWS", 8192)
    reader = LaneReader(open_sequences(write_sequences(lake, [20_000], 5000), "walk"), 4, 1, prefetch=0)
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        num_rows = sum(batch.num_rows for batch in reader.read(0, 0, 1000, range(4)))
    finally:
        sys.setprofile(None)
    assert num_rows == 20_000
    assert calls < num_rows / 4


def test_leaving_the_loop_ends_the_reading_thread(layouts):
    batches = LaneReader(layouts[3], 4, 1, prefetch=1).read(0, 0, 4, range(4))
    next(batches)
    assert [t for t in threading.enumerate() if t.name == "recspark-prefetch"]
    batches.close()
    assert not [t for t in threading.enumerate() if t.name == "recspark-prefetch"]


def test_prefetching_passes_errors_on():
    def fail():
        yield 1
        raise LakeError("cut short")

    items = prefetched(fail, 2)
    assert next(items) == 1
    with pytest.raises(LakeError, match="cut short"):
        next(items)
