"""What runs beside histories: the same events, whatever is done to them; wrong weights by name."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.errors import DataError
from recspark.evaluate.histories import CaseSpec, build_cases, read_by_time
from recspark.evaluate.history_context import MIN_WEIGHT, HistoryContext, raise_weights
from recspark.evaluate.ragged import Ragged
from recspark.evaluate.time_features import NEVER
from recspark.releases.reader import _weigh
from tests.helpers.tiny_lake import rows_of

ROWS = [[7, 4, 9], [], [3], [5, 5, 1, 2]]


def history_and_context():
    """Each event weighs 10 x its user + its place + 1."""
    history = Ragged.from_rows(ROWS)
    weights = 10.0 * history.row_of_value + history.place_of_value + 1
    return history, HistoryContext(weights.astype(np.float32))


def named(history, context):
    """(item, weight) of each event, user by user."""
    pairs = list(zip(history.values.tolist(), context.weight.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(history.offsets[:-1], history.offsets[1:], strict=True)]


def test_events_keep_their_weights_in_parts_orders_and_blocks():
    history, context = history_and_context()
    expected = [[(item, 10.0 * u + p + 1) for p, item in enumerate(row)] for u, row in enumerate(ROWS)]
    assert named(history, context) == expected
    order = np.array([3, 1, 0])
    assert named(history.take(order), context.take(history, order)) == [expected[u] for u in order]
    assert named(history.block(2, 4), context.block(history, 2, 4)) == expected[2:4]
    keep = history.values != 5
    assert named(history.where(keep), context.pick(keep)) == [[e for e in row if e[0] != 5] for row in expected]
    both = HistoryContext.join([context.block(history, 0, 2), context.block(history, 2, 4)])
    assert both.weight.tolist() == context.weight.tolist()


def test_without_weights_nothing_is_asked_for():
    history = Ragged.from_rows(ROWS)
    assert HistoryContext().take(history, np.array([1])).weight is None
    assert HistoryContext.join([HistoryContext(), HistoryContext()]).weight is None
    plain = HistoryContext.plain(history, 7)
    assert plain.weight.tolist() == [1.0] * 8
    assert plain.ts_us.tolist() == [NEVER] * 8
    assert plain.moment_us.tolist() == [7] * 4
    assert HistoryContext(plain.weight).at(7, 4).moment_us is None


def test_users_keep_their_moments():
    history = Ragged.from_rows(ROWS)
    times = 100 * history.row_of_value + history.place_of_value
    context = HistoryContext(ts_us=times).at(np.array([5, 6, 7, 8]), 4)
    taken = context.take(history, np.array([3, 0]))
    assert (taken.moment_us.tolist(), taken.ts_us.tolist()) == ([8, 5], [300, 301, 302, 303, 0, 1, 2])
    part = context.block(history, 2, 4)
    assert (part.moment_us.tolist(), part.ts_us.tolist()) == ([7, 8], [200, 300, 301, 302, 303])
    assert context.pick(history.values != 5).moment_us.tolist() == [5, 6, 7, 8]
    both = HistoryContext.join([context.block(history, 0, 2), part])
    assert (both.moment_us.tolist(), both.ts_us.tolist()) == ([5, 6, 7, 8], times.tolist())


def table(items, weights, ts=None):
    counts = {"num_train": 2, "num_valid": 1, "num_context": 0}
    row = {"user_idx": 0, "item_idx": items, "weight": weights, "ts": ts or list(range(len(items)))} | counts
    return rows_of("user_histories", [row])


def test_histories_by_time_and_cases_carry_the_weights_of_their_events():
    rows = table([3, 8, 5, 9], [1.0, 2.0, 4.0, 8.0], ts=[10, 30, 20, 40])  # the valid event lies between the train ones
    history, context = read_by_time(rows, ["weight"])
    assert named(history, context) == [[(3, 1.0), (5, 4.0), (8, 2.0), (9, 8.0)]]
    cases = build_cases(rows, np.ones(10, np.int64), CaseSpec(), ["weight"])
    assert named(cases.history, cases.context) == [[(3, 1.0), (5, 4.0), (8, 2.0)]]
    assert cases.context.moment_us is None
    assert build_cases(rows, np.ones(10, np.int64), CaseSpec()).context.weight is None


def test_a_case_is_asked_for_at_the_time_of_its_first_held_out_event():
    rows = pa.concat_tables([table([3, 8, 5, 9, 6], [1.0] * 5, ts=[10, 30, 20, 45, 40]), table([3, 8, 5], [1.0] * 3)])
    cases = build_cases(rows, np.ones(10, np.int64), CaseSpec(), ["ts"])  # of the second nothing is held out
    assert cases.context.moment_us.tolist() == [40]
    assert cases.context.ts_us.tolist() == [10, 20, 30]
    valid = build_cases(rows, np.ones(10, np.int64), CaseSpec(split="valid"), ["ts"])
    assert valid.context.moment_us.tolist() == [20, 2]


def test_as_of_a_moment_only_what_came_strictly_before_is_history():
    rows = table([3, 8, 5, 9], [1.0, 2.0, 4.0, 8.0], ts=[10, 30, 20, 40])
    history, context = read_by_time(rows, ["ts", "weight"], until_us=30)
    assert named(history, context) == [[(3, 1.0), (5, 4.0)]]
    assert (context.ts_us.tolist(), context.moment_us.tolist()) == ([10, 20], [30])
    history, context = read_by_time(rows, (), until_us=30)
    assert history.values.tolist() == [3, 5]
    assert context.moment_us is None


def test_weight_0_counts_next_to_nothing():
    assert raise_weights(np.array([0.0, 0.5, 1e-9])).tolist() == pytest.approx([MIN_WEIGHT, 0.5, MIN_WEIGHT])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -0.5])
def test_a_weight_that_is_none_is_told(wrong):
    with pytest.raises(
        DataError, match=r"user_histories: 1 of 3 event weights are no numbers of 0 or more, the first is"
    ):
        HistoryContext.from_rows(table([1, 2, 3], [1.0, wrong, 1.0]), ["weight"])


@pytest.mark.parametrize("weights", [[1.0], None])
def test_rows_of_other_lengths_are_told(weights):
    with pytest.raises(DataError, match="rows with more items than weights, or fewer; run the sessions stage again"):
        HistoryContext.from_rows(table([1, 2, 3], weights), ["weight"])


def test_columns_in_chunks_are_read_as_one():
    rows = pa.concat_tables([table([1, 2, 3], [1.0, 2.0, 3.0]), table([4, 5, 6], [4.0, 5.0, 6.0])])
    assert HistoryContext.from_rows(rows, ["weight"]).weight.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_services_weights_are_those_of_the_known_items():
    found = _weigh([["a", "x", "b"], [], ["x"]], [[1, 2, 3], [], [9]], {"a": 0, "b": 1})
    assert found.tolist() == [1, 3]
