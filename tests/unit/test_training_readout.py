"""Readout by hand."""

import math

import numpy as np
import pytest
import scipy.sparse as sp

from recspark.config.schema import ModelConfig
from recspark.evaluate.history_weights import ALL_ALIKE, HistoryWeights
from recspark.training.readout import (
    Readout,
    ReadoutSpec,
    mean_of_sums,
    mean_user_vectors,
    popularity_bias,
    read_out,
    sum_user_vectors,
    unit_rows,
)
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


def test_under_l2_a_user_is_where_his_items_are_in_the_mean() -> None:
    items = read_out(TABLES, EVENTS, spec(readout="input_output", metric="l2"))
    vectors, _ = mean_user_vectors(np.array([0, 1], np.int32), np.array([0, 2]), np.array([2], np.int32), items)
    np.testing.assert_allclose(vectors, [(INPUT[0] + INPUT[1]) / 2], atol=1e-6)


def test_parts_of_the_items_give_what_the_whole_gives() -> None:
    config = spec(readout="output", centred=True, popularity_term=0.3)
    random = np.random.default_rng(0)
    tables = SkipGramTables(*random.normal(size=(2, 20, 3)).astype(np.float32), random.random(20) < 0.8)
    events = random.integers(0, 50, 20)
    whole = read_out(tables, events, config)
    slices = [slice(0, 7), slice(7, 7), slice(7, 20)]  # an empty one, as with more ranks than items
    parts = [SkipGramTables(tables.input[s], tables.output[s], tables.is_trained[s]) for s in slices]
    asked: list[list[list[float]]] = [[] for _ in slices]
    for part, own, calls in zip(parts, slices, asked, strict=True):
        read_out(part, events[own], config, lambda values, calls=calls: calls.append(list(values)) or values)  # type: ignore[misc]
    sums = [np.sum(values, axis=0) for values in zip(*asked, strict=True)]
    for part, own in zip(parts, slices, strict=True):
        answers = iter(sums)
        found = read_out(part, events[own], config, lambda values, answers=answers: next(answers))  # type: ignore[misc]
        np.testing.assert_allclose(found.vector, whole.vector[own], atol=1e-6)
        np.testing.assert_allclose(found.bias, whole.bias[own], atol=1e-6)


@pytest.mark.parametrize("weights", [ALL_ALIKE, HistoryWeights(0.5), HistoryWeights(0.8, num_items=2)])
def test_users_are_summed_over_parts_of_the_items(weights: HistoryWeights) -> None:
    random = np.random.default_rng(1)
    query, is_trained = random.normal(size=(12, 3)).astype(np.float32), random.random(12) < 0.7
    num_train = random.integers(0, 9, 30).astype(np.int32)
    starts = np.cumsum(num_train + 2) - (num_train + 2)  # two more items a user that are not train
    items = random.integers(0, 12, (num_train + 2).sum()).astype(np.int32)
    unit = unit_rows(query)
    parts = [
        sum_user_vectors(items, starts, num_train, unit[s], is_trained, weights, s.start)
        for s in (slice(0, 5), slice(5, 5), slice(5, 12))
    ]
    found, has_vector = mean_of_sums(sum(parts))
    for user, (start, size) in enumerate(zip(starts, num_train, strict=True)):
        own = [item for item in items[start : start + size] if is_trained[item]]
        assert has_vector[user] == bool(own)
        if own:
            counted = own[-(weights.num_items or len(own)) :]
            shares = weights.decay ** np.arange(len(counted))[::-1]
            np.testing.assert_allclose(found[user], np.average(unit[counted], axis=0, weights=shares), atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"history_decay": 0.5}, [2 / 7, 5 / 7]),  # of (0, 1), (1, 0), (0, 1) with weights 1, 1/2, 1/4
        ({"history_decay": 0.5, "history_items": 2}, [1 / 3, 2 / 3]),
        ({"history_items": 2}, [1 / 2, 1 / 2]),
        ({"history_decay": 1e-9}, [0, 1]),
    ],
)
def test_the_last_items_of_a_history_may_weigh_more(weights: dict[str, float], expected: list[float]) -> None:
    items = read_out(TABLES, EVENTS, spec(**weights))
    history = np.array([1, 0, 3, 1, 3, 2], np.int32)  # item 3 is untrained: no weight, no place; item 2 is test
    vectors, has_vector = mean_user_vectors(history, np.array([0]), np.array([5], np.int32), items)
    assert has_vector.tolist() == [True]
    np.testing.assert_allclose(vectors, [expected], atol=1e-6)


def test_all_alike_is_the_plain_mean_to_the_bit() -> None:
    random = np.random.default_rng(0)
    query = random.normal(size=(30, 8)).astype(np.float32)
    num_train = random.integers(0, 9, 50).astype(np.int32)
    history = random.integers(0, 30, num_train.sum()).astype(np.int32)
    items = Readout(query, query, np.zeros(30, np.float32), np.ones(30, bool))
    rows = np.repeat(np.arange(50), num_train)
    counts = sp.csr_matrix((np.ones(len(history), np.float32), (rows, history)), shape=(50, 30))
    plain = ((counts @ unit_rows(query)) / np.maximum(num_train, 1)[:, None]).astype(np.float32)
    found, _ = mean_user_vectors(history, np.cumsum(num_train) - num_train, num_train, items)
    np.testing.assert_array_equal(found, plain)
