"""Stages graph and item_knn_graph on a lake: what is read, what is committed, what is refused."""

import datetime as dt

import numpy as np
import pytest

from recspark.config.schema import GraphConfig
from recspark.errors import DataError
from recspark.graph.csr import graph_from_table
from recspark.graph.job import build_graph
from recspark.lake.arrow import find_done, find_table, known_tables, read_table
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
            "user_idx": n,
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
    tables = {
        "items": rows_of_table("items", items),
        "sessions": rows_of_table("sessions", sessions),
        "user_histories": rows_of_table("user_histories", history_rows(units, later)),
    }
    write_stage(run, "sessions", tables)


def plan(folder, **graph):
    return plan_tiny(folder, graph=graph, baselines={"item_knn": {"graph": {"group": "user", "num_neighbours": 5}}})


def read_graph(run, stage):
    table = find_table(run.lake, run.stages[stage], "item_graph")
    return table, read_table(table)


@pytest.mark.parametrize("group", ["session", "user"])
def test_only_train_events_make_the_graph(spark, tmp_path, group):
    run = plan(tmp_path, group=group, num_neighbours=6, **WEIGHTED)
    units, later = random_units(seed=31), random_units(seed=32)
    write_lake(run, units, later)
    build_graph(spark, run)
    table, rows = read_graph(run, "graph")
    assert_same_graph(rows_of(rows), graph_oracle.build_graph(units, run.config.graph))
    source = "sessions" if group == "session" else "user_histories"
    assert table.record.is_marker
    assert table.record.facts == {"num_items": NUM_ITEMS, "group": group, "score": "cosine"}
    assert set(table.record.inputs) == {source, "items"}
    counts = table.record.counts
    assert counts["num_units"] == len(units)
    assert counts["num_events"] == sum(len(u.items) for u in units)
    assert counts["num_items"] == len({i for u in units for i in u.items})
    assert counts["num_edges"] == sum(len(d) for d in rows["dst_idx"].to_pylist())
    assert counts["num_rows"] == rows.num_rows
    assert counts["num_pairs"] == sum(len(set(u.items)) * (len(set(u.items)) - 1) // 2 for u in units)
    assert counts["capped_units"] == counts["capped_events"] == 0
    assert graph_from_table(rows, table.record.facts["num_items"]).num_edges == counts["num_edges"]


def test_the_baseline_builds_its_own_graph_beside(spark, tmp_path, capfd):
    run = plan(tmp_path, num_neighbours=3)
    units = random_units(seed=33)
    write_lake(run, units, units)
    build_graph(spark, run)
    build_graph(spark, run, "item_knn_graph")
    for stage, config in (("graph", run.config.graph), ("item_knn_graph", run.config.baselines.item_knn.graph)):
        table, rows = read_graph(run, stage)
        assert table.record.stage == stage
        assert_same_graph(rows_of(rows), graph_oracle.build_graph(units, config))
    lines = capfd.readouterr().err.splitlines()
    first = next(n for n, line in enumerate(lines) if "plan" in line and '"graph"' in line)
    assert '"shuffle_mb"' in lines[first]
    assert "item 0 in" in lines[first]
    assert any("done at version" in line for line in lines[first:])


def refused(spark, run, stage="graph"):
    """The message; and nothing was committed."""
    with pytest.raises(DataError) as error:
        build_graph(spark, run, stage)
    assert find_done(run.lake, run.stages[stage]) is None
    assert "item_graph" not in known_tables(run.lake)
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
    assert "1 pairs" not in message
    assert "none passes graph.min_support 3" in message


def test_bad_event_weights_are_refused(spark, tmp_path):
    run = plan(tmp_path, use_event_weights=True)
    units = [Unit([1, 2, 3], [1.0, float("nan"), -2.0], 0)]
    write_lake(run, units, units)
    assert "2 of 3 train events have a weight that is negative or not a number" in refused(spark, run)


def test_a_task_too_small_is_refused(spark, tmp_path):
    run = plan(tmp_path, task_memory_mb=1)
    units = random_units(seed=34)
    write_lake(run, units, units)
    assert "graph.task_memory_mb is 1" in refused(spark, run)


def test_an_item_in_most_sessions_is_hot_and_exact(spark, tmp_path):
    run = plan(tmp_path, num_blocks=6, num_neighbours=None)
    random = np.random.default_rng(3)
    units = random_units(seed=35, num_units=400, repeats=False)
    for unit in units:
        if 0 not in unit.items and random.random() < 0.8:
            unit.items.append(0)
            unit.weights.append(1.0)
    write_lake(run, units, units)
    build_graph(spark, run)
    _, rows = read_graph(run, "graph")
    expected = graph_oracle.build_graph(units, GraphConfig(num_neighbours=None))
    assert_same_graph(rows_of(rows), expected)
    assert len(expected[0]) > 30
