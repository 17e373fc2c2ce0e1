"""Bitmaps of items by their features."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import ITEMS
from recspark.errors import QueryError
from recspark.index.filters import items_between, items_with
from recspark.lake.arrow import TableAt, write_table


@pytest.fixture
def items(lake):
    record = CommitRecord("sessions", "key", "run", True, "0")
    rows = pa.table(
        {
            "item_idx": pa.array([3, 0, 1, 2], pa.int32()),
            "item_id": list("dabc"),
            "num_events": pa.array([1] * 4, pa.int64()),
            "first_seen": pa.array([None] * 4, pa.timestamp("us", "UTC")),
            "active": [True] * 4,
            "f_category": ["toys", "books", None, "games"],
            "f_tags": pa.array([["red", "new"], None, [], ["new"]], pa.list_(pa.string())),
            "f_price": pa.array([5.0, 10.0, None, 20.0], pa.float32()),
        }
    )
    return TableAt(lake, "items", write_table(lake, ITEMS, rows, record), record)


def chosen(bitmap):
    return np.flatnonzero(bitmap).tolist()


def test_features_choose_items(items):
    assert chosen(items_with(items, "category", ["toys", "games", "no such"])) == [2, 3]
    assert chosen(items_with(items, "tags", ["new"])) == [2, 3]
    assert chosen(items_with(items, "tags", {"red"})) == [3]
    assert chosen(items_between(items, "price", 5, 10)) == [0, 3]
    assert chosen(items_with(items, "category", ["toys", "books"]) & items_between(items, "price", 6, 99)) == [0]
    assert len(items_with(items, "category", [])) == 4


def test_wrong_features_are_told(items):
    with pytest.raises(QueryError, match=r"items have no feature colour at version 0; they have category, tags, price"):
        items_with(items, "colour", ["red"])
    with pytest.raises(QueryError, match=r"feature price holds float, not texts; use items_between"):
        items_with(items, "price", ["5"])
    with pytest.raises(QueryError, match=r"feature tags holds list<.*>, not numbers; use items_with"):
        items_between(items, "tags", 0, 1)
