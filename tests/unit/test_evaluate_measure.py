"""Segments, rows of `metrics` and rows of `recommendations`."""

import numpy as np
import pyarrow as pa
import pytest

from recspark.contracts.tables import METRICS, RECOMMENDATIONS
from recspark.evaluate.histories import CaseSpec, build_cases
from recspark.evaluate.inputs import read_num_events, to_recommendations
from recspark.evaluate.measure import measure, overall, to_metrics_table
from recspark.evaluate.top_k import Ranked
from recspark.lake.arrow import find_table, read_ids
from tests.helpers.tiny_lake import build_histories, plan_tiny, write_sessions

NUM_EVENTS = np.array([4, 2, 1, 1])
WARM_USERS = [([0], [], [], [1]), ([1], [], [], [2])]
COLD_USER = ([], [0], [], [3])


def values(users, lists, ks):
    cases = build_cases(build_histories(users), NUM_EVENTS, CaseSpec())
    found = measure(np.array(lists), cases, NUM_EVENTS, ks)
    return {(v.label, v.segment): (v.value, v.num_users) for v in found}, found


def test_a_segment_holds_its_own_users():
    found, rows = values([*WARM_USERS, COLD_USER], [[1, 2], [3, 0], [1, 3]], (2, 1, 2))
    assert found["recall@2", "all"] == (pytest.approx(2 / 3), 3)
    assert found["recall@2", "warm"] == (0.5, 2)
    assert found["recall@2", "cold"] == (1.0, 1)
    assert found["recall@1", "cold"] == (0.0, 1)
    assert found["coverage@1", "all"][0] == 2 / 4
    assert found["coverage@1", "cold"][0] == 1 / 4
    # cold: list 1, 3 has (2 + 1) / 2 events, the history 4
    assert found["popularity_lift@2", "cold"][0] == pytest.approx(1.5 / 4 - 1)
    assert len(rows) == len(found)  # a k given twice is measured once
    assert overall(rows)["recall@2"] == pytest.approx(2 / 3)


def test_a_segment_without_users_has_no_rows():
    found, _ = values(WARM_USERS, [[1, 2], [3, 0]], (2,))
    assert {segment for _, segment in found} == {"all", "warm"}


def test_items_without_train_events_are_told_apart():
    """Users 0 and 1 want item 4, which has none; user 1 wants item 2 too."""
    users = [([0], [], [], [4]), ([1], [], [], [2, 4]), ([0], [], [], [1])]
    events = np.append(NUM_EVENTS, 0)
    cases = build_cases(build_histories(users), events, CaseSpec())
    found = {
        (v.label, v.segment): (v.value, v.num_users) for v in measure(np.array([[4], [2], [1]]), cases, events, (1,))
    }
    assert found["recall@1", "cold_items"] == (0.5, 2)
    assert found["recall@1", "all"] == (pytest.approx((1 + 0.5 + 1) / 3), 3)


def test_metrics_rows_fit_the_contract():
    _, rows = values(WARM_USERS, [[1, 2], [3, 0]], (1,))
    table = to_metrics_table("key", {"a": rows, "b": rows[:1]})
    assert table.schema == METRICS.schema
    assert table.num_rows == len(rows) + 1
    first = {"stage_key": "key", "model_id": "b", "name": "recall", "k": 1, "value": 0.5, "segment": "all"}
    assert table.to_pylist()[-1] == first | {"num_users": 2}


def test_recommendations_end_where_a_list_ended():
    ranked = Ranked(np.array([[2, 0], [-1, -1], [1, -1]], np.int32), np.array([[3, 2], [-np.inf] * 2, [1, -np.inf]]))
    users, items = pa.chunked_array([["x", "y"], ["z"]]), pa.chunked_array([["a"], ["b", "c"]])
    table = to_recommendations("test", "m", users, items, ranked)
    assert table.schema == RECOMMENDATIONS.schema
    assert table["item_ids"].to_pylist() == [["c", "a"], [], ["b"]]
    assert table["scores"].to_pylist() == [[3, 2], [], [1]]
    assert table["user_id"].to_pylist() == ["x", "y", "z"]


def test_ids_and_counts_come_in_order_of_the_idx(tmp_path):
    run = plan_tiny(tmp_path)
    write_sessions(run, [5, 3, 0], [([0], [], [], [1])])
    items = find_table(run.lake, run.producer("items"), "items")
    assert read_num_events(items).tolist() == [5, 3, 0]
    assert read_ids(items, "item_idx", "item_id").to_pylist() == ["i0", "i1", "i2"]
