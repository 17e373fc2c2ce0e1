"""Adagrad's sums lie apart: each row has a place of its own, those of neighbours are in other cache lines."""

import numpy as np
import pytest

from recspark.training.cpu_rows import new_sums, places_of, step_rows


@pytest.mark.parametrize("num_rows", [1, 2, 15, 16, 17, 31, 32, 33, 1000, 4096, 50_000])
def test_every_row_has_a_place_of_its_own(num_rows):
    sums = new_sums(num_rows)
    places = places_of(sums, np.arange(num_rows))
    assert len(np.unique(places)) == num_rows
    assert 0 <= places.min() <= places.max() < len(sums) < max(32, 2 * num_rows + 16)


def test_popular_items_share_no_cache_line():
    lines = places_of(new_sums(1000), np.arange(64)) // 16
    assert len(set(lines.tolist())) == 64


def test_a_step_reads_and_writes_the_row_s_own_sum():
    random = np.random.default_rng(1)
    vectors, sums = np.zeros((40, 4), np.float32), new_sums(40)
    rows = np.array([3, 39, 3, 17], np.int32)
    ascent = random.normal(size=(4, 4)).astype(np.float32)
    step_rows(vectors, sums, rows, ascent, np.float32(0.5))
    wanted, squares = np.zeros((40, 4)), np.zeros(40)
    for row, pull in zip(rows, ascent.astype(np.float64), strict=True):
        squares[row] += (pull**2).mean()
        wanted[row] += 0.5 * pull / (np.sqrt(squares[row]) + 1e-8)
    np.testing.assert_allclose(vectors, wanted, rtol=1e-5)
    np.testing.assert_allclose(sums[places_of(sums, np.arange(40))], squares, rtol=1e-6)
