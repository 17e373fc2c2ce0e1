"""Features as codes and vectors: learned from what has train events, everything else by a stated fallback."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.errors import DataError
from recspark.training.towers.features import EncodedFeature, encode

KNOWN = np.array([True, True, True, False])


def rows_of(feature: EncodedFeature) -> list[list[int]]:
    assert feature.offsets is not None
    return [part.tolist() for part in np.split(feature.values, feature.offsets[1:-1])]


def test_values_are_codes_in_alphabetic_order_and_unseen_ones_are_0() -> None:
    found = encode("brand", "categorical", pa.array(["b", None, "a", "c"]), KNOWN, 4, "items")
    assert rows_of(found) == [[2], [0], [1], [0]]
    assert (found.size, found.schema["vocabulary"]) == (3, ["a", "b"])


def test_lists_keep_all_their_values_and_an_empty_one_is_0() -> None:
    column = pa.array([["x", "y"], [], None, ["y", "new"]], pa.list_(pa.string()))
    found = encode("genre", "multi", column, KNOWN, 4, "items")
    assert rows_of(found) == [[1, 2], [0], [0], [2, 0]]


def test_numbers_are_buckets_of_equally_many_and_nan_is_0() -> None:
    numbers = pa.array([*range(8), float("nan"), None, -99.0, 1e9], pa.float32())
    known = np.arange(12) < 10
    found = encode("price", "numeric", numbers, known, 4, "items")
    codes = found.values.tolist()
    assert np.bincount(codes[:8]).tolist() == [0, 2, 2, 2, 2]
    assert codes[8:] == [0, 0, 1, 4]
    assert found.size == 5


def test_vectors_are_zero_where_there_is_none() -> None:
    column = pa.array([[1, 2], None, [float("nan"), 4], [5, 6]], pa.list_(pa.float32()))
    found = encode("picture", "vector", column, KNOWN, 4, "items")
    assert found.values.tolist() == [[1, 2], [0, 0], [0, 4], [5, 6]]
    assert found.size == 2


def test_vectors_of_different_lengths_are_told_with_counts() -> None:
    column = pa.array([[1.0, 2.0], [1.0], [3.0, 4.0], None], pa.list_(pa.float32()))
    with pytest.raises(
        DataError, match=r"f_v: vectors of different lengths \(1 of length 1, 2 of length 2\); give all"
    ):
        encode("v", "vector", column, KNOWN, 4, "items: f_v")


def test_a_column_without_a_value_in_training_is_told() -> None:
    with pytest.raises(DataError, match=r"f_x: no value in any row with train events; check the feature's join key"):
        encode("x", "categorical", pa.array([None, None, None, "late"]), KNOWN, 4, "items: f_x")
