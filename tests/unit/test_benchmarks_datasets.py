"""Converters on tiny inputs, and on the public data where it is there."""

import collections
import gzip
import os
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse as sp

from benchmarks.datasets import diginetica, gowalla, graphs, s3rec
from benchmarks.datasets.catalogue import DATASETS, find_dataset
from benchmarks.datasets.events import write_sequences
from benchmarks.lines import BenchmarkError


def rows(path):
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def test_positions_run_on_where_a_user_comes_again(tmp_path):
    write_sequences([("t0", "context", [4, 5]), ("s1", "train", [9]), ("t0", "test", [7])], tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").column_names == ["user_id", "item_id", "split", "position"]
    assert rows(tmp_path / "x.parquet") == [
        ("t0", "4", "context", 0), ("t0", "5", "context", 1), ("s1", "9", "train", 0), ("t0", "7", "test", 2),
    ]  # fmt: skip


def test_gowalla_is_the_corner_of_a_symmetric_matrix(tmp_path):
    train = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]])  # user 1 has test items only
    raw = tmp_path / "raw"
    raw.mkdir()
    sp.save_npz(raw / "s_adj_mat.npz", sp.bmat([[None, sp.csr_matrix(train)], [sp.csr_matrix(train.T), None]]).tocsr())
    (raw / "test.txt").write_text("0 3\n1 2 0\n2 \n")
    gowalla.prepare(raw, tmp_path / "x.parquet")
    assert sorted(rows(tmp_path / "x.parquet")) == [
        ("0", "0", "train"), ("0", "2", "train"), ("0", "3", "test"), ("1", "0", "test"), ("1", "2", "test"),
        ("2", "1", "train"), ("2", "2", "train"), ("2", "3", "train"),
    ]  # fmt: skip


def test_amazon_keeps_the_order(tmp_path):
    (tmp_path / "s3.txt").write_text("1 5 3\n2 8\n")
    s3rec.prepare_sequences(tmp_path / "s3.txt", tmp_path / "x.parquet")
    expected = [("1", "5", "train", 0), ("1", "3", "train", 1), ("2", "8", "train", 0)]
    assert rows(tmp_path / "x.parquet") == expected
    with gzip.open(tmp_path / "pairs.gz", "wt") as file:
        file.write("1 5\n1 3\n2 8\n")
    s3rec.prepare_pairs(tmp_path / "pairs.gz", tmp_path / "x.parquet")
    assert rows(tmp_path / "x.parquet") == expected


def test_diginetica_asks_with_prefixes(tmp_path):
    with gzip.open(tmp_path / "all_train_seq.txt.gz", "wb") as file:
        pickle.dump([[1, 2], [3, 3]], file)
    (tmp_path / "test.txt").write_bytes(pickle.dumps(([[1], [2, 3]], [2, 9])))
    diginetica.prepare(tmp_path, tmp_path / "x.parquet")
    assert rows(tmp_path / "x.parquet") == [
        ("s0", "1", "train", 0), ("s0", "2", "train", 1), ("s1", "3", "train", 0), ("s1", "3", "train", 1),
        ("t0", "1", "context", 0), ("t0", "2", "test", 1),
        ("t1", "2", "context", 0), ("t1", "3", "context", 1), ("t1", "9", "test", 2),
    ]  # fmt: skip


class Trap:
    def __reduce__(self):
        return os.system, ("touch trapped",)


def test_a_pickle_with_anything_but_lists_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.txt").write_bytes(pickle.dumps([[1], Trap()]))
    with pytest.raises(pickle.UnpicklingError, match=r"expected plain lists, found posix\.system"):
        diginetica.load_lists(tmp_path / "test.txt")
    assert not (tmp_path / "trapped").exists()


def test_graphs_give_each_edge_once(tmp_path):
    adjacency = sp.csc_matrix(np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]))
    group = sp.csc_matrix(np.array([[1, 0], [1, 1], [0, 1]]))
    scipy.io.savemat(tmp_path / "b.mat", {"network": adjacency, "group": group})
    graphs.prepare_blogcatalog(tmp_path / "b.mat", tmp_path / "x.parquet")
    assert sorted(rows(tmp_path / "x.parquet")) == [("0", "1"), ("0", "2")]
    assert (
        graphs.read_blogcatalog_labels(tmp_path / "b.mat").toarray().tolist() == group.toarray().astype(bool).tolist()
    )

    (tmp_path / "dblp.ungraph").write_text("0\t1\n1\t2\n")
    (tmp_path / "dblp.cmty").write_text("0\t2\n1\n")
    graphs.prepare_dblp(tmp_path, tmp_path / "x.parquet")
    assert rows(tmp_path / "x.parquet") == [("0", "1"), ("1", "2")]
    assert graphs.read_dblp_labels(tmp_path).toarray().tolist() == [[True, False], [False, True], [True, False]]


def test_missing_raw_data_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSPARK_DATA", str(tmp_path))
    with pytest.raises(BenchmarkError, match="shared/data/gowalla-lightgcn"):
        find_dataset("gowalla")


COUNTS = {
    "gowalla": {"train": 810_128, "test": 217_242},
    "diginetica": {"train": 906_140, "context": 245_546, "test": 60_858},
    "s3-beauty": {"train": 198_502},
}


@pytest.mark.parametrize("name", COUNTS)
def test_public_data_has_the_published_sizes(name, shared_data, tmp_path):
    dataset = DATASETS[name]
    dataset.prepare(shared_data / dataset.raw, tmp_path / "x.parquet")
    splits = pq.read_table(tmp_path / "x.parquet", columns=["split"])["split"].to_pylist()
    assert collections.Counter(splits) == COUNTS[name]
