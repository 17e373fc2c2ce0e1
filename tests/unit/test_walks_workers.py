import numpy as np
import pytest

from recspark.contracts.shards import shard_of
from recspark.contracts.tables import WALKS
from recspark.errors import SetupError
from recspark.graph.csr import Csr
from recspark.walks import graph_files
from recspark.walks.bias import make_bias
from recspark.walks.graph_files import GraphFiles, open_graph, remove_leftovers, write_graph
from recspark.walks.pieces import Piece
from recspark.walks.starts import find_starts
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.workers import WalkTask, to_batch, walk_batches, walk_chunk
from tests.helpers.walks import chunk_numbers, ring_with_chords, sha_of_walks


@pytest.fixture
def task(tmp_path):
    graph, bias = ring_with_chords(), make_bias(0.5, 2.0)
    files = write_graph("graph-test", build_walk_graph(graph, bias), find_starts(graph.indptr), str(tmp_path))
    return WalkTask(files, bias, seed=3, num_walks=3, walk_length=6, piece=Piece((0, 1), 0, 1), num_chunks=1)


def with_chunks(task, num_chunks):
    return WalkTask(**{**vars(task), "num_chunks": num_chunks})


def test_the_same_walks_for_any_number_of_chunks(task):
    digests = {sha_of_walks(walk_batches(chunk_numbers(n), with_chunks(task, n))) for n in (1, 2, 7, 240)}
    assert len(digests) == 1


def test_every_start_has_its_walks_in_every_epoch(task):
    walks = walk_chunk(task, 0)
    assert np.bincount(walks.starts).tolist() == [6] * 40
    assert np.bincount(walks.epochs).tolist() == [120, 120]
    assert (walks.nodes[:, 0] == walks.starts).all()
    assert len(np.unique(walks.nodes, axis=0)) > 200, "walks of a node differ by number and epoch"


def test_a_seed_changes_the_walks(task):
    other = WalkTask(**{**vars(task), "seed": 4})
    assert (walk_chunk(task, 0).nodes != walk_chunk(other, 0).nodes).any()


def test_epochs_are_the_same_however_many_there_are(task):
    one = walk_chunk(WalkTask(**{**vars(task), "piece": Piece((0,), 0, 1)}), 0)
    np.testing.assert_array_equal(walk_chunk(task, 0).nodes[:120], one.nodes)


def test_rows_follow_the_contract(task):
    batch = to_batch(walk_chunk(task, 0))
    assert batch.schema == WALKS.schema
    rows = batch.to_pylist()
    assert all(r["walk"][0] == r["start_idx"] and len(r["walk"]) == 6 for r in rows)
    assert [r["shard"] for r in rows] == shard_of(np.array([r["start_idx"] for r in rows]), 64).tolist()


def test_epochs_can_be_made_one_by_one_and_in_parts(task):
    whole = sha_of_walks(walk_batches(chunk_numbers(1), task))
    pieces = [Piece((epoch,), part, 3) for epoch in (0, 1) for part in range(3)]
    parts = [to_batch(walk_chunk(WalkTask(**{**vars(task), "piece": piece}), 0)) for piece in pieces]
    assert sha_of_walks(parts) == whole
    assert all(part.num_rows for part in parts)


def test_dead_ends_make_short_rows(tmp_path):
    graph = Csr(np.array([0, 1, 2, 2, 4]), np.array([1, 2, 0, 2], np.int32), np.ones(4, np.float32))
    bias = make_bias(1.0, 1.0)
    files = write_graph("graph-ends", build_walk_graph(graph, bias), find_starts(graph.indptr), str(tmp_path))
    task = WalkTask(files, bias, seed=1, num_walks=50, walk_length=4, piece=Piece((0,), 0, 1), num_chunks=4)
    rows = [row for batch in walk_batches(chunk_numbers(4), task) for row in batch.to_pylist()]
    assert {tuple(r["walk"]) for r in rows} == {(0, 1, 2), (1, 2), (3, 2), (3, 0, 1, 2)}
    assert len(rows) == 150


def test_no_chunks_no_rows(task):
    assert list(walk_batches([], task)) == []
    assert list(walk_batches([next(iter(chunk_numbers(1))).slice(0, 0)], task)) == []


def test_graph_is_mapped_read_only(task):
    graph, starts = open_graph(task.files)
    assert not any(array.flags.writeable for array in (*graph, *starts))
    assert isinstance(graph.records.base, np.memmap)
    np.testing.assert_array_equal(np.sort(starts.nodes), np.arange(40))


def test_empty_arrays_can_be_opened(tmp_path):
    bias = make_bias(1.0, 1.0)
    files = write_graph("graph-plain", build_walk_graph(ring_with_chords(), bias, weighted=False),
                        find_starts(ring_with_chords().indptr), str(tmp_path))  # fmt: skip
    graph, _ = open_graph(files)
    assert [a.size for a in (graph.records, graph.bloom, graph.return_weights)] == [0, 0, 0]


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    graph = ring_with_chords()
    with pytest.raises(
        SetupError, match=r"the graph needs [\d,]+ bytes on disk in .*, 100 are free; point spark.local"
    ):
        write_graph("graph-big", build_walk_graph(graph, make_bias(1, 1)), find_starts(graph.indptr), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_and_live_folders_stay(tmp_path):
    live = write_graph("graph-live", build_walk_graph(ring_with_chords(), make_bias(1, 1)),
                       find_starts(ring_with_chords().indptr), str(tmp_path))  # fmt: skip
    dead = tmp_path / "recspark-walks-dead"
    dead.mkdir()
    (dead / "lock").touch()
    other = tmp_path / "recspark-walks-unlocked"  # about to be locked, or not ours
    other.mkdir()
    remove_leftovers(str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {live.folder.rsplit("/", 1)[1], other.name}


def test_shipped_files_are_asked_of_spark(monkeypatch):
    spark_files = pytest.importorskip("pyspark").SparkFiles
    monkeypatch.setattr(spark_files, "get", lambda name: f"/executor/{name}")
    assert GraphFiles("graph-1", None).path("indptr") == "/executor/graph-1-indptr.npy"
