"""Readout by hand."""

import math

import numpy as np
import pytest

from recspark.config.schema import ModelConfig
from recspark.training.readout import ReadoutSpec, mean_user_vectors, popularity_bias, read_out
from recspark.training.tables import SkipGramTables

INPUT = np.array([[1, 0], [0, 2], [3, 3], [9, 9]], np.float32)
OUTPUT = np.array([[1, 1], [2, 2], [4, 0], [9, 9]], np.float32)
TABLES = SkipGramTables(INPUT, OUTPUT, np.array([True, True, True, False]))
EVENTS = np.array([1, 10, 100, 0])


def spec(**config: object) -> ReadoutSpec:
    return ReadoutSpec.from_config(ModelConfig.model_validate(config))


def read(**config: object) -> list[list[list[float]]]:
    items = read_out(TABLES, EVENTS, spec(**config))
    return [items.vector.tolist(), items.query.tolist()]


@pytest.mark.parametrize(
    ("readout", "vector", "query"),
    [
        ("input", INPUT, INPUT),
        ("output", OUTPUT, OUTPUT),
        ("sum", INPUT + OUTPUT, INPUT + OUTPUT),
        ("input_output", OUTPUT, INPUT),
    ],
)
def test_candidates_and_queries_come_from_the_tables_named(readout: str, vector: np.ndarray, query: np.ndarray) -> None:
    found = read(readout=readout)
    for rows, expected in zip(found, (vector, query), strict=True):
        assert rows[:3] == expected[:3].tolist()
        assert rows[3] == [0, 0]  # never trained
    items = read_out(TABLES, EVENTS, spec(readout=readout))
    assert items.has_query == (readout == "input_output")


def test_centring_takes_the_mean_of_trained_items_off() -> None:
    vector, _ = read(readout="output", centred=True)
    mean = np.array([7 / 3, 1])
    np.testing.assert_allclose(vector, [*(OUTPUT[:3] - mean), [0, 0]], atol=1e-6)


def test_bias_is_the_centred_log_of_train_events() -> None:
    bias = popularity_bias(EVENTS, TABLES.is_trained, 0.5)
    half_log_10 = 0.5 * math.log(10)
    assert bias.tolist() == pytest.approx([-half_log_10, 0, half_log_10, 0], abs=1e-6)


def test_a_user_is_the_mean_of_unit_query_vectors_of_trained_train_items() -> None:
    items = read_out(TABLES, EVENTS, spec(readout="input_output"))
    histories = np.array([0, 1, 2, 0, 0, 1, 3, 2, 3], np.int32)
    offsets, num_train = np.array([0, 3, 6, 8, 9]), np.array([2, 3, 1, 0], np.int32)
    vectors, has_vector = mean_user_vectors(histories, offsets, num_train, items)
    assert has_vector.tolist() == [True, True, False, False]  # only an untrained item; no train items
    np.testing.assert_allclose(vectors[:2], [[0.5, 0.5], [2 / 3, 1 / 3]], atol=1e-6)
