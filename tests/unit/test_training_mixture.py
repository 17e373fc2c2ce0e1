"""Corpora mixed by weight: exact shares, every row as often as it should, the same batches for any number of ranks."""

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from recspark.contracts.commits import CommitRecord
from recspark.errors import DataError, TrainingError
from recspark.lake.arrow import TableAt, table_uri
from recspark.training import lanes
from recspark.training.data import LaneReader, SequenceFiles, open_sequences
from recspark.training.mixture import MixedReader, interleave, open_reader, plan_epoch, spread_evenly
from recspark.training.sequence_files import Sequences

RECORD = CommitRecord("walks", "key", "run", True, "0")
SIZES = (300, 41, 97)
CORPUS = 1_000_000
"""Row r of corpus k holds the number k x this + r, 1 to 3 times."""


def write_corpus(folder: str, corpus: int, num_rows: int) -> SequenceFiles:
    lists = [[corpus * CORPUS + r] * (1 + r % 3) for r in range(num_rows)]
    content = pa.table({"walk": pa.array(lists, pa.list_(pa.int32()))})
    properties = WriterProperties(max_row_group_size=50)
    write_deltalake(table_uri(folder, f"walks{corpus}"), content, writer_properties=properties)
    return open_sequences(TableAt(folder, f"walks{corpus}", 0, RECORD), "walk")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[SequenceFiles]:
    folder = str(tmp_path_factory.mktemp("corpora"))
    return [write_corpus(folder, k, size) for k, size in enumerate(SIZES)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough that small tables have several blocks a lane."""
    monkeypatch.setattr(lanes, "BLOCK_ROWS", 13)


def numbers(batch: Sequences) -> list[int]:
    """Each row's number, after checking that the row is whole."""
    found = []
    for start, stop in itertools.pairwise(batch.offsets):
        row = batch.values[start:stop].tolist()
        assert row == [row[0]] * (1 + row[0] % CORPUS % 3)
        found.append(row[0])
    return found


def read(reader: MixedReader, epoch: int, batch: int, own: range | None = None, first: int = 0) -> list[list[int]]:
    chosen = range(reader.num_lanes) if own is None else own
    return [numbers(b) for b in reader.read(epoch, first, batch, chosen)]


some_mixture = {
    "weights": st.lists(st.sampled_from([0.01, 0.3, 1.0, 2.5, 7.0]), min_size=2, max_size=3),
    "seed": st.integers(0, 2**40),
    "epoch": st.integers(0, 20),
    "num_lanes": st.sampled_from([1, 2, 4, 8]),
    "part": st.integers(1, 11),
}


@settings(max_examples=20, deadline=None)
@given(**some_mixture)
def test_any_number_of_ranks_sees_the_same_global_batches(corpora, weights, seed, epoch, num_lanes, part):
    reader = MixedReader(corpora[: len(weights)], weights, num_lanes, seed, prefetch=0)
    batch = part * reader.num_lanes
    alone = read(reader, epoch, batch)
    assert len(alone) == reader.steps_per_epoch(batch)
    for world_size in (w for w in (1, 2, 4) if reader.num_lanes % w == 0):
        ranks = [read(reader, epoch, batch, reader.rank_lanes(r, world_size)) for r in range(world_size)]
        assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == alone
        assert len({tuple(map(len, rank)) for rank in ranks}) == 1


@settings(max_examples=20, deadline=None)
@given(**some_mixture, stop=st.floats(0, 1))
def test_resume_reads_the_tail_of_the_undisturbed_epoch(corpora, weights, seed, epoch, num_lanes, part, stop):
    chosen = corpora[: len(weights)]
    reader = MixedReader(chosen, weights, num_lanes, seed, prefetch=0)
    batch = part * reader.num_lanes
    whole = read(reader, epoch, batch)
    first = int(stop * len(whole))
    assert read(MixedReader(chosen, weights, num_lanes, seed, prefetch=2), epoch, batch, first=first) == whole[first:]


@settings(max_examples=20, deadline=None)
@given(**some_mixture)
def test_every_batch_has_its_shares(corpora, weights, seed, epoch, num_lanes, part):
    """Up to any step a corpus has given each lane its share of the epoch so far, to within a row a corpus."""
    reader = MixedReader(corpora[: len(weights)], weights, num_lanes, seed, prefetch=0)
    given_so_far, rows_so_far = Counter(), 0
    for step in read(reader, epoch, part * reader.num_lanes):
        assert len(step) % reader.num_lanes == 0
        lane_rows = np.array(step).reshape(reader.num_lanes, -1) // CORPUS
        assert all(sorted(lane) == sorted(lane_rows[0]) for lane in lane_rows)  # every lane alike
        given_so_far += Counter(lane_rows[0].tolist())
        rows_so_far += lane_rows.shape[1]
        for corpus, rows in enumerate(reader.epoch_rows):
            share = rows / sum(reader.epoch_rows)
            assert abs(given_so_far[corpus] - share * rows_so_far) <= len(weights)
    assert dict(given_so_far) == dict(enumerate(reader.epoch_rows))


def test_an_epoch_has_as_many_sequences_as_there_are_and_goes_on_where_the_last_one_stopped(corpora):
    # Lanes of 75 and 10 rows (4 lanes, one row of 41 left out a pass) at 1 : 4 are 17 and 68 rows of each epoch.
    reader = MixedReader(corpora[:2], [1, 4], 4, 3, prefetch=0)
    assert reader.epoch_rows == [17, 68]
    assert (reader.num_rows, reader.num_lanes, reader.rows_left_out(8), reader.steps_per_epoch(8)) == (340, 4, 1, 43)
    epochs = [Counter(itertools.chain(*read(reader, e, 8))) for e in range(5)]
    long, short = ([sum(e[k * CORPUS + r] for e in epochs) for r in range(n)] for k, n in enumerate(SIZES[:2]))
    assert sum(long) == 5 * 17 * 4
    assert set(long) == {1, 2}  # 85 rows a lane: one pass of 75 and the first ten rows of the next
    assert sum(short) == 5 * 68 * 4
    assert max(short) == 34  # 340 rows a lane: 34 passes of 10, each leaving out another row
    assert min(short) >= 30


def test_passes_come_in_another_order(corpora):
    reader = MixedReader(corpora[:2], [1, 1], 1, 3, prefetch=0)
    rows = [n for n in itertools.chain(*read(reader, 0, 4)) if n >= CORPUS]
    first, second = rows[:41], rows[41:82]
    assert sorted(first) == sorted(second)
    assert first != second


def test_corpora_of_one_layout_are_not_shuffled_alike(tmp_path):
    twins = [write_corpus(str(tmp_path), k, 60) for k in range(2)]
    rows = np.array(list(itertools.chain(*read(MixedReader(twins, [1, 1], 1, 3, prefetch=0), 0, 4))))
    assert (rows[rows < CORPUS] != rows[rows >= CORPUS] - CORPUS).any()


def test_shares_worked_by_hand():
    assert plan_epoch([100, 20], [2, 1]) == [80, 40]
    assert plan_epoch([10, 30], [1, 0.001]) == [40, 1]  # never none
    # Rows stand at 1/4, 3/4 and at 1/8, 3/8, 5/8, 7/8 of the epoch.
    assert spread_evenly([2, 4]).tolist() == [[0, 0, 1, 1, 1, 2, 2], [0, 1, 1, 2, 3, 3, 4]]
    # Both at 1/2: the earlier corpus first.
    assert spread_evenly([1, 1]).tolist() == [[0, 1, 1], [0, 0, 1]]


def test_a_mixed_batch_worked_by_hand():
    first = Sequences(np.array([1, 1, 2], np.int32), np.array([0, 2, 3]))  # one row of each of two lanes
    second = Sequences(np.array([3, 4, 5, 6], np.int32), np.array([0, 1, 2, 3, 4]))  # two
    mixed = interleave([first, Sequences(np.empty(0, np.int32), np.array([0])), second], 2)
    assert [mixed.values[a:b].tolist() for a, b in itertools.pairwise(mixed.offsets)] == [
        [1, 1],
        [3],
        [4],
        [2],
        [5],
        [6],
    ]


def test_the_smallest_corpus_decides_how_many_lanes_there_are(corpora):
    reader = MixedReader(corpora, [1, 1, 1], 64, 1)
    assert reader.num_lanes == 8  # 41 rows, at least 4 a lane
    with pytest.raises(TrainingError, match="3 ranks cannot share 8 lanes evenly"):
        reader.rank_lanes(0, 3)
    with pytest.raises(TrainingError, match="batch_sequences: 100 is no multiple of the 8 lanes; use 96 or 104"):
        reader.steps_per_epoch(100)


def test_one_corpus_is_read_as_ever(corpora):
    plain = LaneReader(corpora[0], 8, 5)
    reader = open_reader([(corpora[0], 1.0)], 8, 5)
    assert isinstance(reader, LaneReader)
    assert read(reader, 1, 16) == read(plain, 1, 16)


def test_an_empty_corpus_is_refused(corpora, tmp_path):
    with pytest.raises(DataError, match="walks2: no sequences"):
        open_reader([(corpora[0], 1.0), (write_corpus(str(tmp_path), 2, 0), 1.0)], 8, 5)


def test_a_prefix_of_each_list_is_read(tmp_path):
    lists = [[5, 6, 7, 8], [], [9], [1, 2]]
    content = {"item_idx": pa.array(lists, pa.list_(pa.int32())), "num_train": pa.array([3, 0, 0, 2], pa.int32())}
    write_deltalake(table_uri(str(tmp_path), "user_histories"), pa.table(content))
    table = TableAt(str(tmp_path), "user_histories", 0, RECORD)
    files = open_sequences(table, "item_idx", prefix="num_train")
    for cache_bytes in (0, 1 << 30):  # streamed, kept
        [batch] = LaneReader(files, 1, 1, cache_bytes=cache_bytes).read(0, 0, 4, [0])
        rows = sorted(batch.values[a:b].tolist() for a, b in itertools.pairwise(batch.offsets))
        assert rows == [[], [], [1, 2], [5, 6, 7]]
