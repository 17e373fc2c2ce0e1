"""The item graph as arrays, against scipy."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from recspark.contracts.tables import ITEM_GRAPH
from recspark.errors import DataError
from recspark.graph.csr import Csr, cap_degree, graph_from_table, symmetrize_by_max

NUM_NODES = 30


def random_matrix(seed, density=0.2, levels=6):
    """Scores with many ties, no self-loops; the last node is isolated."""
    random = np.random.default_rng(seed)
    dense = (
        random.integers(1, levels + 1, (NUM_NODES, NUM_NODES)) / 8 * (random.random((NUM_NODES, NUM_NODES)) < density)
    )
    np.fill_diagonal(dense, 0)
    dense[-1] = dense[:, -1] = 0
    return sp.csr_matrix(dense.astype(np.float32))


def table_of(matrix, seed=0, chunk=7):
    """Rows of item_graph in random order, in several chunks, neighbours best first."""
    rows = []
    for src in np.random.default_rng(seed).permutation(NUM_NODES):
        start, stop = matrix.indptr[src], matrix.indptr[src + 1]
        order = np.lexsort((matrix.indices[start:stop], -matrix.data[start:stop]))
        dst, score = matrix.indices[start:stop][order], matrix.data[start:stop][order]
        if len(dst):
            rows.append(
                {"src_idx": int(src), "dst_idx": dst.tolist(), "score": score.tolist(), "count": [1] * len(dst)}
            )
    tables = [pa.Table.from_pylist(rows[n : n + chunk], schema=ITEM_GRAPH.schema) for n in range(0, len(rows), chunk)]
    return pa.concat_tables(tables) if tables else ITEM_GRAPH.schema.empty_table()


def as_matrix(graph: Csr):
    return sp.csr_matrix((graph.weights, graph.indices, graph.indptr), shape=(graph.num_nodes, graph.num_nodes))


def assert_well_formed(graph: Csr):
    assert graph.indptr.dtype == np.int64
    assert graph.indices.dtype == np.int32
    assert graph.weights.dtype == np.float32
    assert as_matrix(graph).has_canonical_format


@pytest.mark.parametrize("seed", range(3))
def test_rows_become_the_same_matrix(seed):
    matrix = random_matrix(seed)
    graph = graph_from_table(table_of(matrix, seed), NUM_NODES)
    assert_well_formed(graph)
    assert (as_matrix(graph) != matrix).nnz == 0
    assert graph.num_edges == matrix.nnz
    assert graph.degrees.tolist() == np.diff(matrix.indptr).tolist()


def test_a_sliced_table_is_read_right():
    matrix = random_matrix(4)
    whole = table_of(matrix, chunk=100)
    graph = graph_from_table(pa.concat_tables([whole.slice(11), whole.slice(0, 11)]), NUM_NODES)
    assert (as_matrix(graph) != matrix).nnz == 0


@pytest.mark.parametrize("seed", range(3))
def test_symmetrized_is_the_maximum_with_the_transpose(seed):
    matrix = random_matrix(seed)
    both = symmetrize_by_max(graph_from_table(table_of(matrix), NUM_NODES))
    assert_well_formed(both)
    assert (as_matrix(both) != matrix.maximum(matrix.T.tocsr())).nnz == 0


@pytest.mark.parametrize("max_degree", [1, 3, 100])
def test_capped_keeps_the_heaviest_then_the_smallest(max_degree):
    matrix = random_matrix(5)
    capped = cap_degree(graph_from_table(table_of(matrix), NUM_NODES), max_degree)
    assert_well_formed(capped)
    for node in range(NUM_NODES):
        row = matrix[node]
        best = sorted(zip(-row.data, row.indices, strict=True))[:max_degree]
        kept = slice(capped.indptr[node], capped.indptr[node + 1])
        assert capped.indices[kept].tolist() == sorted(i for _, i in best)
        assert dict(zip(capped.indices[kept], capped.weights[kept], strict=True)) == {i: -w for w, i in best}


def test_no_edges_make_an_empty_graph():
    empty = graph_from_table(ITEM_GRAPH.schema.empty_table(), 4)
    for graph in (empty, symmetrize_by_max(empty), cap_degree(empty, 2)):
        assert_well_formed(graph)
        assert graph.indptr.tolist() == [0] * 5


def row(src, dst, score):
    return {"src_idx": src, "dst_idx": dst, "score": score, "count": [1] * len(dst)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(3, [0], [1.0])], "src_idx 3 is not among the 3 items"),
        ([row(0, [1, -1], [1.0, 1.0])], "dst_idx -1 is not among the 3 items"),
        ([row(0, [1], [1.0]), row(0, [2], [1.0])], "an item has two rows"),
        ([row(0, [1, 1], [1.0, 1.0])], "an edge stands twice"),
        ([row(0, [1, 2], [1.0, float("nan")])], "1 of 2 scores are negative or not finite"),
        ([row(0, [1, 2], [-1.0, float("inf")])], "2 of 2 scores are negative or not finite"),
    ],
)
def test_a_damaged_graph_is_refused(rows, message):
    with pytest.raises(DataError, match=message):
        graph_from_table(pa.Table.from_pylist(rows, schema=ITEM_GRAPH.schema), 3)
