"""Augmented L2 ranks and scores exactly as similarity + bias does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recspark.index.metric import Space, augmented_dim, column_places, fit_space, padded_dim, unit_rows
from tests.helpers.index_lake import exact_top, make_items


@pytest.mark.parametrize("num_parts", [1, 5, 12])
@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_distances_map_back_to_similarity_plus_bias(metric, bias, num_parts):
    items = make_items(300, 12, bias=bias, queries=True)
    space = fit_space(metric, items.vectors, items.bias, num_parts)
    points, queries = space.encode_vectors(items.vectors, items.bias), space.encode_queries(items.queries[:40])
    assert points.shape[1] == queries.points.shape[1] == space.padded_dim
    assert space.padded_dim % num_parts == 0
    distances = np.square(points[None, :, :].astype(np.float64) - queries.points[:, None, :]).sum(-1)
    order = np.argsort(distances, axis=1)
    found = np.take_along_axis(space.scores(distances.astype(np.float32), queries), order, axis=1)
    ids, scores = exact_top(items, items.queries[:40], 300, metric)
    np.testing.assert_allclose(found, scores, atol=2e-5 * np.abs(scores).max())
    np.testing.assert_array_equal(items.item_idx[order[:, :20]], ids[:, :20])


@settings(max_examples=60, deadline=None)
@given(
    metric=st.sampled_from(["cosine", "ip"]),
    scale=st.floats(1e-3, 1e3),
    spread=st.floats(0.0, 50.0),
    shift=st.floats(-20.0, 20.0),
    seed=st.integers(0, 1000),
)
def test_round_trip_holds_at_any_scale(metric, scale, spread, shift, seed):
    draw = np.random.default_rng(seed)
    vectors = (scale * draw.standard_normal((20, 6))).astype(np.float32)
    bias = (shift + spread * draw.standard_normal(20)).astype(np.float32)
    queries = draw.standard_normal((5, 6)).astype(np.float32)
    space = fit_space(metric, vectors, bias)
    encoded = space.encode_queries(queries)
    points = space.encode_vectors(vectors, bias).astype(np.float64)
    distances = np.square(points[None] - encoded.points[:, None].astype(np.float64)).sum(-1).astype(np.float32)
    left, right = (unit_rows(queries), unit_rows(vectors)) if metric == "cosine" else (queries, vectors)
    exact = left.astype(np.float64) @ right.T + bias
    # float32 distances carry errors relative to |query| times the radius of the space.
    reach = space.max_norm * np.sqrt(np.square(left).sum(1, keepdims=True) + space.has_bias) + np.abs(bias).max()
    assert (np.abs(space.scores(distances, encoded) - exact) <= 2e-6 * reach).all()


def test_plain_cosine_is_normalised_and_nothing_else():
    vectors = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    space = fit_space("cosine", vectors, np.zeros(2, np.float32))
    np.testing.assert_allclose(space.encode_vectors(vectors, np.zeros(2, np.float32)), [[0.6, 0.8], [0, 1]], rtol=1e-6)
    # d^2 = 0.36 + 0.04 = 0.4, so the score is 1 - 0.2
    np.testing.assert_allclose(space.scores(np.array([[0.4]]), space.encode_queries(vectors[1:])), [[0.8]], rtol=1e-6)


def test_inner_product_lifts_every_vector_onto_one_sphere():
    vectors = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    space = fit_space("ip", vectors, np.zeros(2, np.float32))
    assert space.max_norm == pytest.approx(5.0)
    np.testing.assert_allclose(
        space.encode_vectors(vectors, np.zeros(2, np.float32))[:, 2], [0, np.sqrt(21)], rtol=1e-6
    )
    np.testing.assert_allclose(space.encode_queries(np.array([[0.0, 2.0]], np.float32)).points, [[0, 5, 0]])


def test_zero_query_scores_the_bias_under_cosine():
    items = make_items(50, 4, bias=1.0)
    space = fit_space("cosine", items.vectors, items.bias)
    encoded = space.encode_queries(np.zeros((1, 4), np.float32))
    distances = np.square(space.encode_vectors(items.vectors, items.bias) - encoded.points).sum(-1)[None]
    np.testing.assert_allclose(space.scores(distances, encoded)[0], items.bias, atol=1e-5)


def test_facts_give_the_space_back():
    items = make_items(50, 4, bias=1.0)
    space = fit_space("ip", items.vectors, items.bias, 3)
    assert Space(**space.to_facts()) == space


def test_columns_are_spread_evenly_over_parts():
    assert column_places(5, 3).tolist() == [0, 2, 3, 4, 5]  # parts of two: 1, 2, 2 columns
    for dim in range(1, 40):
        for parts in range(1, dim + 1):
            width = padded_dim(dim, parts) // parts
            places = column_places(dim, parts)
            used = np.bincount(places // width, minlength=parts)
            assert len(set(places.tolist())) == dim
            assert used.max() - used.min() <= 1
            assert used.min() >= 1


@pytest.mark.parametrize(
    ("metric", "has_bias", "wanted"), [("cosine", False, 8), ("cosine", True, 10), ("ip", False, 9), ("ip", True, 10)]
)
def test_augmented_dimensions_by_hand(metric, has_bias, wanted):
    assert augmented_dim(metric, 8, has_bias) == wanted
