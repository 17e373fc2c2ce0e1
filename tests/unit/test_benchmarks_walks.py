"""Walk benchmarks: the graph that is drawn, the shares that tell whether two sides walk alike, the lake they read."""

import numpy as np
import pytest

from benchmarks import walks_worker
from benchmarks.lines import BenchmarkError
from benchmarks.spark_lakes import Copies, graph_table, plan_lake, write_item_graph
from benchmarks.walk_graphs import compare_shares, make_graph, read_graph, save_graph, step_shares
from recspark.graph.csr import Csr, graph_from_table
from recspark.lake.arrow import find_table, read_table

PATH_OF_FOUR = Csr(np.array([0, 1, 3, 5, 6]), np.array([1, 0, 2, 1, 3, 2], np.int32), np.ones(6, np.float32))
TRIANGLE = Csr(np.array([0, 2, 4, 6]), np.array([1, 2, 0, 2, 0, 1], np.int32), np.ones(6, np.float32))
EDGES = {"source": {"kind": "edges", "path": "none.csv", "format": "csv", "directed": False}, "split": {}}


def assert_same_graph(found, wanted):
    for left, right in zip(vars(found).values(), vars(wanted).values(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_graph_is_undirected_sorted_and_without_dead_ends():
    graph = make_graph(300, 3_000)
    dense = np.zeros((300, 300))
    src = np.repeat(np.arange(300), graph.degrees)
    dense[src, graph.indices] = graph.weights
    np.testing.assert_array_equal(dense, dense.T)
    assert (np.count_nonzero(dense), dense.diagonal().sum()) == (graph.num_edges, 0)
    assert graph.degrees.min() >= 2  # the ring
    assert graph.degrees.max() > 3 * graph.degrees.mean()
    assert set(np.unique(graph.weights)) == set(range(1, 11))
    assert (np.diff(src * 300 + graph.indices) > 0).all()


def test_a_graph_survives_its_file(tmp_path):
    save_graph(TRIANGLE, tmp_path / "graph.npz")
    assert_same_graph(read_graph(str(tmp_path / "graph.npz")), TRIANGLE)


def test_shares_are_of_steps_back_and_of_steps_to_neighbours():
    walks = np.array([[0, 1, 0, 1], [0, 1, 2, 3]], np.int32)  # back, back; far, far
    assert step_shares(PATH_OF_FOUR, walks) == {"return": 0.5, "near": 0}
    walks = np.array([[0, 1, 2, 0], [0, 1, 0, 2]], np.int32)  # near, near; back, near
    assert step_shares(TRIANGLE, walks) == {"return": 0.25, "near": 0.75}
    with pytest.raises(BenchmarkError, match="follows no edge"):
        step_shares(PATH_OF_FOUR, np.array([[0, 1, 3]], np.int32))


def test_sides_that_walk_differently_are_refused():
    ours = {"return": 0.3, "near": 0.1}
    compare_shares({"project": ours, "peer": {"return": 0.305, "near": 0.095}})
    with pytest.raises(BenchmarkError, match="walk differently"):
        compare_shares({"project": ours, "peer": {"return": 0.3, "near": 0.12}})


def test_the_project_walks_as_often_as_told_from_every_node(tmp_path):
    graph = make_graph(50, 200)
    save_graph(graph, tmp_path / "graph.npz")
    assert walks_worker.load(str(tmp_path / "graph.npz"), 0.5, 2.0)["table_seconds"] > 0
    sample = tmp_path / "walks.npy"
    found = walks_worker.run(num_walks=4, num_steps=6, seed=1, sample=str(sample))
    assert set(found) == {"wall", "cpu"}
    walks = np.load(sample)
    assert walks.shape == (200, 7)
    assert (np.bincount(walks[:, 0], minlength=50) == 4).all()
    step_shares(graph, walks)  # along edges


def test_a_graph_becomes_a_lake_that_is_read_as_it_was(tmp_path):
    graph = make_graph(50, 200)
    assert_same_graph(graph_from_table(graph_table(graph), 50), graph)
    run = plan_lake(str(tmp_path / "lake"), EDGES)
    write_item_graph(run, graph)
    found = find_table(run.lake, run.producer("item_graph"), "item_graph")
    assert_same_graph(graph_from_table(read_table(found), 50), graph)
    assert read_table(find_table(run.lake, run.producer("items"), "items")).num_rows == 50


def test_copies_lie_at_new_paths_and_only_the_newest_stays(tmp_path):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "file").write_text("x")
    copies = Copies(tmp_path)
    first, other, second = (copies.make(str(tmp_path / "lake"), name) for name in ("a", "b", "a"))
    assert len({first, other, second}) == 3
    left = {path.name for path in tmp_path.iterdir() if (path / "file").exists()}
    assert left == {"lake", other.rsplit("/", 1)[1], second.rsplit("/", 1)[1]}
