"""Stages graph and item_knn_graph on a lake: what is read, what is committed, what is refused."""

import datetime as dt
import json
import os

import numpy as np
import pytest

from recspark.config.graph import GraphConfig
from recspark.errors import DataError
from recspark.graph.blocks import UnitStats
from recspark.graph.csr import graph_from_table
from recspark.graph.edges import build_graph_edges
from recspark.graph.job import build_graph
from recspark.graph.report import check_stats
from recspark.lake.arrow import find_done, find_table, read_table
from tests.helpers import graph_oracle
from tests.helpers.graph_oracle import Unit, assert_same_graph, random_units, rows_of
from tests.helpers.tiny_lake import plan_tiny, write_stage
from tests.helpers.tiny_lake import rows_of as rows_of_table

pytestmark = pytest.mark.spark
NUM_ITEMS = 40
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
WEIGHTED = {"half_life_days": 9, "use_event_weights": True}


def session_rows(units, split):
    return [
        {
            "session_id": f"{split}{n}",
            "user_idx": unit.user,
            "start_ts": EPOCH,
            "end_ts": EPOCH + dt.timedelta(microseconds=unit.time_us),
            "item_idx": unit.items,
            "offset_seconds": [0] * len(unit.items),
            "weight": unit.weights,
            "event_type": [0] * len(unit.items),
            "split": split,
            "day": EPOCH.date(),
        }
        for n, unit in enumerate(units)
    ]


def history_rows(units, later):
    """Train events of ``units``, then validation, context and test events of ``later``."""
    rows = []
    for n, (unit, more) in enumerate(zip(units, later, strict=True)):
        items, ts = unit.items + more.items * 3, [unit.time_us] * len(unit.items) + [2**60] * 3 * len(more.items)
        counts = {"num_train": len(unit.items), "num_valid": len(more.items), "num_context": len(more.items)}
        same = {"user_idx": n, "weight": unit.weights + more.weights * 3, "event_type": [0] * len(items)}
        rows.append({"item_idx": items, "ts": ts, **same, **counts})
    return rows


def write_lake(run, units, later):
    items = [{"item_idx": i, "item_id": f"i{i}", "num_events": 1, "active": True} for i in range(NUM_ITEMS)]
    sessions = session_rows(units, "train") + session_rows(later, "test") + session_rows(later, "valid")
    users = [{"user_idx": u, "user_id": f"u{u}", "num_events": n} for u, n in enumerate((3, 70))]
    tables = {
        "items": rows_of_table("items", items),
        "users": rows_of_table("users", users),
        "sessions": rows_of_table("sessions", sessions),
        "user_histories": rows_of_table("user_histories", history_rows(units, later)),
    }
    write_stage(run, "sessions", tables)


def plan(folder, **graph):
    return plan_tiny(folder, graph=graph, baselines={"item_knn": {"graph": {"group": "user", "num_neighbours": 5}}})


def read_graph(run, stage):
    table = find_table(run.lake, run.stages[stage], "item_graph")
    return table, read_table(table)


def test_both_graphs_see_train_events_only(spark, tmp_path, capfd):
    """The run's own by session, with a hot item; the baseline's by user. Their records say what they are."""
    run = plan(tmp_path, num_neighbours=6, num_blocks=6, **WEIGHTED)
    units, later = random_units(seed=31), random_units(seed=32)
    write_lake(run, units, later)
    for stage, config, group, source in (
        ("graph", run.config.graph, "session", "sessions"),
        ("item_knn_graph", run.config.baselines.item_knn.graph, "user", "user_histories"),
    ):
        build_graph(spark, run, stage)
        table, rows = read_graph(run, stage)
        assert_same_graph(rows_of(rows), graph_oracle.build_graph(units, config))
        check_record(table.record, rows, units)
        assert table.record.stage == stage
        assert table.record.facts == {"num_items": NUM_ITEMS, "group": group, "score": "cosine"}
        assert set(table.record.inputs) == {source, "items"}
    plan_line, done_line = (json.loads(line) for line in capfd.readouterr().err.splitlines() if '"graph"' in line)
    assert plan_line["message"] == "plan"
    assert plan_line["num_blocks"] == 6
    assert plan_line["hot_items"] == 1
    share = sum(0 in u.items for u in units) / len(units)
    assert plan_line["biggest_items"].startswith(f"item 0 in {share:.1%}; ")
    assert plan_line["biggest_units"].startswith("12 events; 12 events; ")
    assert plan_line["biggest_users"] == "user 1: 70 events; user 0: 3 events"
    assert {"pair_cost", "shuffle_mb", "task_mb", "longest_unit"} <= set(plan_line)
    assert done_line["message"] == f"done at version {read_graph(run, 'graph')[0].version}"


def check_record(record, rows, units):
    counts = record.counts
    sizes = [len(set(u.items)) for u in units]
    assert record.is_marker
    assert counts["num_units"] == len(units)
    assert counts["num_events"] == sum(len(u.items) for u in units)
    assert counts["num_items"] == len({i for u in units for i in u.items})
    assert counts["num_pairs"] == sum(n * (n - 1) // 2 for n in sizes)
    assert counts["pair_cost"] == sum(n * n for n in sizes if n > 1)
    assert not any(counts[f"capped_{what}"] for what in ("units", "events", "users", "user_events"))
    assert counts["num_rows"] == rows.num_rows
    assert counts["num_edges"] == graph_from_table(rows, record.facts["num_items"]).num_edges


def test_caps_and_support_by_user_equal_brute_force(spark, tmp_path, capfd):
    """What both caps cut stands in the record and in the plan's line."""
    run = plan(tmp_path, support="user", min_support=2, max_user_events=30, max_session_items=8, num_neighbours=None)
    units, later = random_units(seed=33), random_units(seed=34)
    write_lake(run, units, later)
    build_graph(spark, run)
    table, rows = read_graph(run, "graph")
    assert_same_graph(rows_of(rows), graph_oracle.build_graph(units, run.config.graph))
    by_user = [sum(len(u.items) for u in units if u.user == user) for user in range(17)]
    kept = graph_oracle.cap_users(units, 30)
    expected = {
        "num_events": sum(by_user),
        "capped_users": sum(n > 30 for n in by_user),
        "capped_user_events": sum(max(n - 30, 0) for n in by_user),
        "capped_units": sum(len(u.items) > 8 for u in kept),
        "capped_events": sum(max(len(u.items) - 8, 0) for u in kept),
    }
    assert {name: table.record.counts[name] for name in expected} == expected
    line = next(json.loads(line) for line in capfd.readouterr().err.splitlines() if '"plan"' in line)
    assert {name: line[name] for name in expected if name in line} == {k: expected[k] for k in expected if k in line}
    assert {"capped_users", "capped_user_events", "capped_units", "capped_events"} <= set(line)


def test_edges_are_a_table_of_their_own(spark, tmp_path):
    """One row an edge, with both ids; asking for it changes no other stage's key."""
    run = plan(tmp_path, num_neighbours=4, edge_table=True)
    assert {n: s.key for n, s in run.stages.items() if n != "graph_edges"} == {
        name: stage.key for name, stage in plan(tmp_path, num_neighbours=4).stages.items()
    }
    write_lake(run, random_units(seed=35), random_units(seed=36))
    build_graph(spark, run)
    build_graph_edges(spark, run)
    rows = rows_of(read_graph(run, "graph")[1])
    expected = {(i, j, score, count, f"i{i}", f"i{j}") for i, row in rows.items() for j, score, count in row}
    table = find_table(run.lake, run.stages["graph_edges"], "item_graph_edges")
    found = read_table(table)
    assert found.column_names == ["src", "dst", "weight", "count", "src_id", "dst_id"]
    assert {tuple(row.values()) for row in found.to_pylist()} == expected
    assert found.num_rows == len(expected) == table.record.counts["num_edges"]


def refused(spark, run, stage="graph"):
    """The message; and nothing was committed."""
    with pytest.raises(DataError) as error:
        build_graph(spark, run, stage)
    assert find_done(run.lake, run.stages[stage]) is None
    assert "item_graph" not in os.listdir(f"{run.lake}/tables")
    return str(error.value)


def test_units_of_one_item_are_refused(spark, tmp_path):
    run = plan(tmp_path)
    write_lake(run, [Unit([3, 3], [1.0, 1.0], 0)], [Unit([1, 2], [1.0, 1.0], 0)])
    message = refused(spark, run)
    assert "none of the 1 train sessions holds two different items (2 events)" in message
    assert "graph.group: user" in message


def test_pruning_everything_is_refused(spark, tmp_path):
    run = plan(tmp_path, min_support=3)
    write_lake(run, [Unit([1, 2], [1.0, 1.0], 0)] * 2, [Unit([1, 2], [1.0, 1.0], 0)] * 2)
    message = refused(spark, run)
    assert "2 pairs in 2 sessions" in message
    assert "none passes graph.min_support 3" in message


def test_bad_event_weights_are_refused():
    stats = UnitStats(*[np.zeros(3, np.int64)] * 3, num_units=1, num_events=3, num_pairs=3, bad_weights=2)
    with pytest.raises(DataError, match="2 of 3 train events have a weight that is negative or not a number"):
        check_stats(stats, GraphConfig(use_event_weights=True))
