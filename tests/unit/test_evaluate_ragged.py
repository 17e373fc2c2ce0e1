"""Rows of different lengths against lists of lists."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recspark.evaluate.ragged import Ragged, group_by_length

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8)


def as_lists(ragged):
    return [ragged.row(r).tolist() for r in range(len(ragged))]


@given(ROWS, st.randoms())
def test_operations_equal_those_on_lists(rows, random):
    ragged = Ragged.from_rows(rows)
    assert as_lists(ragged) == rows
    assert as_lists(ragged.distinct()) == [sorted(set(r)) for r in rows]
    order = [random.randrange(len(rows)) for _ in range(5)] if rows else []
    assert as_lists(ragged.take(np.array(order, dtype=np.int64))) == [rows[i] for i in order]
    keep = np.array([random.random() < 0.5 for r in rows for _ in r], dtype=bool)
    marks = iter(keep)
    assert as_lists(ragged.where(keep)) == [[v for v in r if next(marks)] for r in rows]
    start = random.randint(0, len(rows))
    assert as_lists(ragged.block(start, len(rows))) == rows[start:]
    assert ragged.place_of_value.tolist() == [p for r in rows for p in range(len(r))]


@given(ROWS, st.randoms())
def test_rows_are_sorted_by_keys_and_equal_keys_stay_in_order(rows, random):
    keys = [[random.randrange(3) for _ in r] for r in rows]
    ragged, flat = Ragged.from_rows(rows), np.array([key for row in keys for key in row], dtype=np.int64)
    expected = [
        [v for _, _, v in sorted(zip(k, range(len(r)), r, strict=True))] for k, r in zip(keys, rows, strict=True)
    ]
    assert as_lists(ragged.sort_by(flat)) == expected
    assert ragged.sort_by(ragged.place_of_value) is ragged


@given(ROWS, ROWS)
def test_without_and_contains_look_at_the_same_row_only(rows, others):
    others = (others + [[]] * len(rows))[: len(rows)]
    left = Ragged.from_rows(rows).without(Ragged.from_rows(others))
    assert as_lists(left) == [[v for v in r if v not in o] for r, o in zip(rows, others, strict=True)]
    wanted = np.tile(np.arange(-1, 12), (len(rows), 1))
    found = Ragged.from_rows(rows).contains(np.arange(len(rows))[:, None] + np.zeros_like(wanted), wanted)
    assert found.tolist() == [[v in r for v in range(-1, 12)] for r in rows]


def test_from_arrow_reads_slices_chunks_and_nulls():
    column = pa.chunked_array([pa.array([[9], [1, 2], None]).slice(1), pa.array([[], [3]])])
    assert as_lists(Ragged.from_arrow(column)) == [[1, 2], [], [], [3]]


@given(ROWS, st.integers(1, 4))
def test_the_last_values_are_kept(rows, count):
    assert as_lists(Ragged.from_rows(rows).keep_last(count)) == [row[-count:] for row in rows]


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 60))
def test_groups_hold_every_row_once_and_no_more_than_they_may(lengths, max_values):
    groups = [group.tolist() for group in group_by_length(np.array(lengths, dtype=np.int64), 3, max_values)]
    rows = [row for group in groups for row in group]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    for group in groups:
        assert len(group) == 1 or len(group) * max(max(lengths[row] for row in group), 1) * 3 <= max_values
