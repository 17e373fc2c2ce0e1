"""`cooccurrence_kernel`: sessions as drawn, scipy's side against dense arithmetic, and how rows are compared."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.cooccurrence_kernel import build_rows, compare
from benchmarks.graph_rows import GraphRows, compare_rows, rows_from_sizes, rows_from_table
from benchmarks.lines import BenchmarkError, check_line
from benchmarks.scipy_cooccurrence import build_rows as build_scipy_rows
from benchmarks.scipy_cooccurrence import cut_blocks
from benchmarks.session_data import SessionData, items_table, make_sessions, sessions_table, users_table
from recspark.contracts.tables import ITEM_GRAPH, ITEMS, SESSIONS, USERS

SESSIONS_OF_FOUR = SessionData(
    np.array([0, 3, 5, 7, 8]), np.array([0, 1, 2, 0, 1, 1, 3, 2], np.int32), 5
)  # {0 1 2} {0 1} {1 3} {2}; item 4 in none


def rows_of(src, neighbours):
    """Rows of (dst, score, count) lists."""
    sizes = [len(row) for row in neighbours]
    dst, scores, counts = zip(*(entry for row in neighbours for entry in row), strict=True)
    return GraphRows(
        np.array(src, np.int32), np.concatenate([[0], np.cumsum(sizes)]), np.array(dst, np.int32),
        np.array(scores, np.float32), np.array(counts, np.int32),
    )  # fmt: skip


def assert_equal(found, wanted):
    for left, right in zip(vars(found).values(), vars(wanted).values(), strict=True):
        np.testing.assert_array_equal(left, right)


def best_by_hand(data, limit):
    """The same from a dense matrix, row by row."""
    dense = np.zeros((data.num_sessions, data.num_items), np.int64)
    dense[np.repeat(np.arange(data.num_sessions), np.diff(data.indptr)), data.items] = 1
    counts = dense.T @ dense
    of_item = counts.diagonal().astype(float)
    src, neighbours = [], []
    for i in range(data.num_items):
        scored = [
            (np.float32(counts[i, j] * (of_item[i] ** -0.5 * of_item[j] ** -0.5)), j)
            for j in np.flatnonzero(counts[i])
            if j != i
        ]
        best = sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:limit]
        if best:
            src.append(i)
            neighbours.append([(j, score, counts[i, j]) for score, j in best])
    return rows_of(src, neighbours)


def test_sessions_are_distinct_items_popular_first():
    data = make_sessions(500, 60)
    assert (data.num_sessions, data.indptr[-1]) == (500, len(data.items))
    for start, stop in zip(data.indptr[:-1], data.indptr[1:], strict=True):
        assert 1 <= stop - start == len(set(data.items[start:stop].tolist())) <= 50
    counts = np.bincount(data.items, minlength=60)
    assert counts[:10].sum() > 2 * counts[-10:].sum()
    head = data.head(3)
    assert (head.num_sessions, head.num_items) == (3, 60)
    np.testing.assert_array_equal(head.items, data.items[: data.indptr[3]])


def test_sessions_become_rows_of_the_contract():
    table = sessions_table(SESSIONS_OF_FOUR)
    assert table.schema == SESSIONS.schema
    assert table["item_idx"].to_pylist() == [[0, 1, 2], [0, 1], [1, 3], [2]]
    assert table["offset_seconds"].to_pylist() == [[0, 60, 120], [0, 60], [0, 60], [0]]
    assert {str(day) for day in table["day"].to_pylist()} == {"2026-01-05"}
    assert users_table(SESSIONS_OF_FOUR).to_pylist() == [{"user_idx": 0, "user_id": "0", "num_events": 8}]
    items = items_table(np.array([5, 3]))
    assert (items.schema, items["item_id"].to_pylist()) == (ITEMS.schema, ["0", "1"])
    assert users_table(SESSIONS_OF_FOUR).schema == USERS.schema


@pytest.mark.parametrize("block_cost", [1, 300, 10**6])
def test_scipy_finds_what_dense_arithmetic_finds_at_any_block_size(block_cost):
    data = make_sessions(200, 40)
    found, seconds = build_scipy_rows(data.indptr, data.items, data.num_items, 7, block_cost)
    assert_equal(found, best_by_hand(data, 7))
    assert min(seconds.values()) > 0


def test_scipy_leaves_out_items_without_neighbours():
    found, _ = build_scipy_rows(SESSIONS_OF_FOUR.indptr, SESSIONS_OF_FOUR.items, 5, 1)
    assert found.src.tolist() == [0, 1, 2, 3]  # not 4
    assert found.dst.tolist() == [1, 0, 0, 1]  # of item 2, 0 (1 / sqrt 4) before 1 (1 / sqrt 6)
    assert found.counts.tolist() == [2, 2, 1, 1]


def test_the_project_finds_the_same():
    data = make_sessions(200, 70)
    assert_equal(build_rows(data), best_by_hand(data, 50))


def test_blocks_hold_a_cost_or_a_single_row():
    assert cut_blocks(np.array([3, 3, 3, 9, 1, 1]), 6) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert cut_blocks(np.array([], np.int64), 6) == []


def test_a_line_says_what_was_compared():
    line = compare(make_sessions(300, 40), 1, "python -m benchmarks cooccurrence_kernel")
    check_line(line)
    assert line["compared"]["equal_rows"] == line["compared"]["rows"] == 40
    assert line["work"]["num_neighbours"] == 50
    assert set(line["peer_seconds"]) == {"product", "top"}


def test_rows_come_from_sizes_and_from_a_table():
    wanted = rows_of([1, 2], [[(5, 0.5, 3), (0, 0.25, 1)], [(1, 0.5, 2)]])
    assert_equal(rows_from_sizes(np.array([0, 2, 1]), wanted.dst, wanted.scores, wanted.counts), wanted)
    rows = [
        {"src_idx": 2, "dst_idx": [1], "score": [0.5], "count": [2]},
        {"src_idx": 1, "dst_idx": [5, 0], "score": [0.5, 0.25], "count": [3, 1]},
    ]
    assert_equal(rows_from_table(pa.Table.from_pylist(rows, schema=ITEM_GRAPH.schema)), wanted)


def test_ties_in_another_order_are_told_and_nothing_else_is_let_pass():
    ours = rows_of([1, 2], [[(5, 0.5, 3), (0, 0.25, 1)], [(1, 0.5, 2)]])
    assert compare_rows(ours, ours) == {"rows": 2, "neighbours": 3, "equal_rows": 2, "tied_rows": 0}
    tied = rows_of([1, 2], [[(5, 0.5, 3), (7, 0.25000001, 4)], [(1, 0.5, 2)]])
    assert compare_rows(ours, tied)["tied_rows"] == 1
    for other, message in (
        (rows_of([1, 2], [[(5, 0.5, 3), (0, 0.26, 1)], [(1, 0.5, 2)]]), "1 of 2 rows .* the first is that of item 1"),
        (rows_of([1, 2], [[(5, 0.5, 3), (0, 0.25, 1)], [(1, 0.5, 9)]]), "1 of 2 rows .* the first is that of item 2"),
        (rows_of([1, 3], [[(5, 0.5, 3), (0, 0.25, 1)], [(1, 0.5, 2)]]), "2 rows of 3 neighbours in all against 2 of 3"),
        (rows_of([1, 2], [[(5, 0.5, 3)], [(1, 0.5, 2)]]), "2 rows of 3 neighbours in all against 2 of 2"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            compare_rows(ours, other)
