"""Vectors of items without one: hand-worked means of neighbours and of items with the same features."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import ITEM_GRAPH, ITEMS
from recspark.index.fill import fill_vectors
from recspark.index.item_vectors import ItemVectors
from recspark.lake.arrow import TableAt, write_table


def record(name):
    return CommitRecord("sessions", "key", "run", True, "0", facts={"table": name})


def make_tables(lake):
    """Items 0..6: 0, 1, 2 have vectors; 3 has neighbours; 4 features; 5 neither; 6 is inactive."""
    items = pa.table(
        {
            "item_idx": pa.array(range(7), pa.int32()),
            "item_id": [f"i{n}" for n in range(7)],
            "num_events": pa.array([9, 8, 7, 1, 0, 0, 0], pa.int64()),
            "first_seen": pa.array([None] * 7, pa.timestamp("us", "UTC")),
            "active": [True] * 6 + [False],
            "f_category": ["toys", "toys", "books", None, "toys", "none such", "toys"],
            "f_tags": pa.array([["red"], [], ["red", "new"], None, ["red"], [], []], pa.list_(pa.string())),
        }
    )
    graph = pa.table(
        {
            "src_idx": pa.array([0, 3, 5], pa.int32()),
            "dst_idx": pa.array([[1], [0, 2, 4], [6]], pa.list_(pa.int32())),
            "score": pa.array([[1.0], [0.6, 0.2, 5.0], [1.0]], pa.list_(pa.float32())),
            "count": pa.array([[1], [1, 1, 1], [1]], pa.list_(pa.int32())),
        }
    )
    versions = [
        write_table(lake, spec, rows, record(spec.name)) for spec, rows in ((ITEMS, items), (ITEM_GRAPH, graph))
    ]
    return [TableAt(lake, name, v, record(name)) for name, v in zip(("items", "item_graph"), versions, strict=True)]


def make_vectors(metric, queries=None):
    vectors = np.array([[2, 0], [0, 3], [0, 4]], np.float32)
    queries = vectors if queries is None else np.array(queries, np.float32)
    bias = np.array([0.3, 0.2, 0.5], np.float32)
    ids = pa.array(["i0", "i1", "i2"])
    return ItemVectors("m", metric, np.arange(3, dtype=np.int64), vectors, queries, bias, item_id=ids)


def fill(lake, vectors, ways):
    items, graph = make_tables(lake)
    return fill_vectors(vectors, items, graph, ("category", "tags"), ways)


def test_neighbours_count_by_score(lake):
    """.6 and .2 of items 0 and 2 make 3/4 and 1/4; item 4 has no vector and does not count."""
    filled, counts = fill(lake, make_vectors("ip"), ("neighbours",))
    assert counts == {"neighbours": 1, "unfilled": 2}
    assert filled.item_idx.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(filled.vectors[3], [0.75 * 2, 0.25 * 4])
    assert filled.item_id.to_pylist() == ["i0", "i1", "i2", "i3"]
    assert filled.bias[3] == np.float32(0.2)
    assert filled.queries is filled.vectors


def test_content_is_the_mean_over_values_of_the_mean_over_items(lake):
    """toys: items 0, 1; red: items 0, 2; so item 4 is half of each."""
    filled, counts = fill(lake, make_vectors("l2"), ("content",))
    assert counts == {"content": 1, "unfilled": 2}
    assert filled.item_idx.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(filled.vectors[3], [0.5 * (1 + 1), 0.5 * (1.5 + 2)])


def test_ways_are_tried_in_order_and_cosine_counts_directions(lake):
    filled, counts = fill(lake, make_vectors("cosine", queries=[[0, 1], [5, 0], [0, 2]]), ("neighbours", "content"))
    assert counts == {"neighbours": 1, "content": 1, "unfilled": 1}
    assert filled.item_idx.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(filled.vectors[3:], [[0.75, 0.25], [0.5, 0.5]])
    np.testing.assert_allclose(filled.queries[3:], [[0, 1], [0.25, 0.75]])


@pytest.mark.parametrize("way", ["neighbours", "content"])
def test_nothing_missing_changes_nothing(lake, way):
    items, graph = make_tables(lake)
    six = np.ones((6, 2), np.float32)
    vectors = ItemVectors("m", "ip", np.arange(6), six, six, np.zeros(6, np.float32), item_id=pa.array(list("abcdef")))
    assert fill_vectors(vectors, items, graph, ("category",), (way,)) == (vectors, {way: 0, "unfilled": 0})
