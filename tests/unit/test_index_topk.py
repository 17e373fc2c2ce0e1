"""The k smallest of a row, exactly, ties by smaller id."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recspark.index.topk import largest_k, smallest_k


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-2.5, -0.0, 0.0, 1e-9, 3.0, np.inf]), st.integers(-1, 2**31 - 1)), min_size=1),
    st.integers(1, 12),
)
def test_equals_a_sort_of_pairs(pairs, k):
    values = np.array([[v for v, _ in pairs]], np.float32)
    ids = np.array([[i for _, i in pairs]], np.int64)
    wanted = sorted((float(np.float32(v)) + 0.0, i) for v, i in pairs if i != -1)[:k]
    found_values, found_ids = smallest_k(values, ids, k)
    assert found_ids[0].tolist() == [i for _, i in wanted] + [-1] * (k - len(wanted))
    assert found_values[0].tolist() == [v for v, _ in wanted] + [np.inf] * (k - len(wanted))


def test_largest_pads_with_minus_infinity():
    values, ids = largest_k(np.array([[1.0, 5.0, 5.0]], np.float32), np.array([[4, 9, 2]]), 4)
    assert ids.tolist() == [[2, 9, 4, -1]]
    assert values.tolist() == [[5.0, 5.0, 1.0, -np.inf]]
