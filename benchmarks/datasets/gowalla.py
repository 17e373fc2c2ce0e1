"""Gowalla as LightGCN cut it: 29,858 users, 40,981 items, 810,128 train and 217,242 test pairs, without order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks.datasets.events import TEST, TRAIN, write_sequences


def prepare(raw: Path, path: Path) -> None:
    """Adjacency matrix and test lists to events with splits."""
    write_sequences(read_sequences(raw), path, has_order=False)


def read_sequences(raw: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """(user, split, items): train pairs are the user x item block of the symmetric matrix."""
    tests = [np.array(line.split(), np.int64) for line in (raw / "test.txt").read_text().splitlines()]
    adjacency = sp.load_npz(raw / "s_adj_mat.npz").tocsr()
    num_users = find_num_users(adjacency)
    train = adjacency[:num_users, num_users:].tocsr()
    for user in range(num_users):
        yield str(user), TRAIN, train.indices[train.indptr[user] : train.indptr[user + 1]]
    for user, *items in tests:
        yield str(user), TEST, np.array(items, np.int64)


def find_num_users(adjacency: sp.csr_matrix) -> int:
    """Rows before the items begin: the largest corner block without an edge (users only meet items)."""
    first_neighbour = np.full(adjacency.shape[0], adjacency.shape[0])
    rows = np.flatnonzero(np.diff(adjacency.indptr))
    first_neighbour[rows] = np.minimum.reduceat(adjacency.indices, adjacency.indptr[rows])
    # Every user's neighbours are items, so users end where the smallest item begins.
    return int(first_neighbour[: first_neighbour[0]].min())
