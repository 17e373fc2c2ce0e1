"""Labelled graphs: edge lists for the chain, labels for `classify`. A node's item_id is its number."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import scipy.sparse as sp


def f1_names(*percents: int) -> tuple[str, ...]:
    """Metric names of a protocol: micro and macro F1 by percent of nodes labelled."""
    return tuple(f"{kind}_f1@{percent}" for percent in percents for kind in ("micro", "macro"))


def prepare_blogcatalog(raw: Path, path: Path) -> None:
    """The upper triangle of the symmetric adjacency: 333,983 edges between 10,312 nodes."""
    network = sp.triu(scipy.io.loadmat(raw)["network"], k=1).tocoo()
    _write_edges(network.row, network.col, path)


def read_blogcatalog_labels(raw: Path) -> sp.csr_array:
    """[10312, 39]."""
    return sp.csr_array(scipy.io.loadmat(raw)["group"]).astype(bool)


def prepare_dblp(raw: Path, path: Path) -> None:
    """127,968 undirected edges between 51,264 nodes."""
    edges = np.loadtxt(raw / "dblp.ungraph", dtype=np.int64)
    _write_edges(edges[:, 0], edges[:, 1], path)


def read_dblp_labels(raw: Path) -> sp.csr_array:
    """[51264, 60]: a line of the file lists the members of one label."""
    members = [np.array(line.split(), np.int64) for line in (raw / "dblp.cmty").read_text().splitlines()]
    nodes = np.concatenate(members)
    labels = np.repeat(np.arange(len(members)), [len(m) for m in members])
    return sp.csr_array((np.ones(len(nodes), bool), (nodes, labels)))


def _write_edges(src: np.ndarray, dst: np.ndarray, path: Path) -> None:
    text = {name: pa.array(nodes.astype(np.int64)).cast(pa.string()) for name, nodes in (("src", src), ("dst", dst))}
    pq.write_table(pa.table(text), path)
