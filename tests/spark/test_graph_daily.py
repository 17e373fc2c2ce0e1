"""`graph.incremental` on a lake: days come, go and change; each graph equals that of a build of those days alone."""

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest

from recspark.config import plan_run
from recspark.errors import LakeError
from recspark.graph import daily_job
from recspark.graph.daily_job import DailyBuild
from recspark.graph.job import build_graph
from recspark.lake.arrow import find_done, find_table, read_table
from recspark.lake.spark import merge_table
from tests.helpers.graph_oracle import DAY_US, Unit, rows_of
from tests.helpers.tiny_lake import plan_tiny, write_stage
from tests.helpers.tiny_lake import rows_of as rows_of_table
from tests.unit.test_graph_cooccurrence import NUM_ITEMS
from tests.unit.test_graph_cooccurrence import run as build_in_process

pytestmark = pytest.mark.spark
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def make_day(day, seed=0):
    """Sessions of one day over a few items of its own and two that every day has."""
    random = np.random.default_rng(100 * seed + day)
    known = [0, 1, *range(2 + 5 * day, 10 + 5 * day)]
    lengths = random.integers(1, 7, 30)
    return [Unit([int(i) for i in random.choice(known, n)], [1.0] * n, day * DAY_US) for n in lengths.tolist()]


def at_state(folder, state, days, first_item="i0", **graph):
    """A run over a source at some state, whose sessions are those of ``days``."""
    config = plan_tiny(folder, graph={"incremental": True, "num_neighbours": 5, **graph}).config
    run = plan_run(config, {"fingerprint": state})
    ids = [first_item, *(f"i{n}" for n in range(1, NUM_ITEMS))]
    items = [{"item_idx": n, "item_id": i, "num_events": 1, "active": True} for n, i in enumerate(ids)]
    rows = [session_row(unit, f"{state}-{n}") for n, unit in enumerate(u for day in days for u in day)]
    tables = {"items": rows_of_table("items", items), "sessions": rows_of_table("sessions", rows)}
    write_stage(run, "sessions", tables)
    return run


def session_row(unit, name):
    ts = EPOCH + dt.timedelta(microseconds=unit.time_us)
    same = {"item_idx": unit.items, "weight": unit.weights, "split": "train", "day": ts.date()}
    zeros = [0] * len(unit.items)
    times = {"start_ts": ts, "end_ts": ts, "offset_seconds": zeros, "event_type": zeros}
    return {"session_id": name, "user_idx": 0, **times, **same}


def build(spark, run, days):
    """The counts of the commit, after a look at every row."""
    build_graph(spark, run)
    table = find_table(run.lake, run.stages["graph"], "item_graph")
    held = [unit for day in days for unit in day]
    assert rows_of(read_table(table)) == build_in_process(held, run.config.graph)[0]
    sums = find_table(run.lake, run.stages["graph"], "item_pair_sums")
    assert sums.version == table.record.tables["item_pair_sums"]
    assert table.record.counts["num_units"] == len(held)
    assert table.record.counts["num_events"] == sum(len(u.items) for u in held)
    return {name: table.record.counts[name] for name in ("added_days", "removed_days", "changed_rows")}


def test_days_cost_their_own_rows_and_equal_the_full_build(spark, tmp_path):
    days = [make_day(n) for n in range(6)]
    steps = {
        "first": days[:5],
        "next": days[1:6],  # one comes, one expires
        "late": [days[1], make_day(2, seed=1), *days[3:6]],  # one has changed
        "same": [days[1], make_day(2, seed=1), *days[3:6]],  # other files, the same sessions
    }
    found = {name: build(spark, at_state(tmp_path, name, of_step), of_step) for name, of_step in steps.items()}
    num_items = len({i for day in days[:5] for u in day for i in u.items})
    assert found["first"] == {"added_days": 5, "removed_days": 0, "changed_rows": num_items}
    touched = {i for day in (days[0], days[5]) for u in day for i in u.items}
    assert found["next"] == {"added_days": 1, "removed_days": 1, "changed_rows": len(touched)}
    assert (found["late"]["added_days"], found["late"]["removed_days"]) == (1, 1)
    assert 0 < found["late"]["changed_rows"] < num_items
    assert found["same"] == {"added_days": 0, "removed_days": 0, "changed_rows": 0}


def test_other_ids_and_other_settings_are_built_anew(spark, tmp_path):
    """An index that means another item cannot be added to; nor do graphs of other settings meet."""
    days = [make_day(n) for n in range(4)]
    build(spark, at_state(tmp_path, "first", days[:3]), days[:3])
    moved = build(spark, at_state(tmp_path, "moved", days, first_item="another"), days)
    assert moved["added_days"] == 4
    other = build(spark, at_state(tmp_path, "moved", days, first_item="another", score="llr"), days)
    assert other["added_days"] == 4
    again = build(spark, at_state(tmp_path, "back", days[:3], first_item="another", score="llr"), days[:3])
    assert (again["added_days"], again["removed_days"]) == (0, 1)


def test_sums_that_another_run_changed_or_left_alone_are_mended(spark, tmp_path, monkeypatch):
    """A run that stops after its sums; then one whose sums another run changes between reading and merging."""
    days = [make_day(n) for n in range(5)]
    build(spark, at_state(tmp_path, "first", days[:3]), days[:3])
    run = at_state(tmp_path, "stopped", days[:4])
    with monkeypatch.context() as patch:
        patch.setattr(DailyBuild, "_score", stop)
        with pytest.raises(KeyboardInterrupt):
            build_graph(spark, run)
    assert find_done(run.lake, run.stages["graph"]) is None
    assert build(spark, run, days[:4])["added_days"] == 0

    run = at_state(tmp_path, "disturbed", days)
    with monkeypatch.context() as patch:
        patch.setattr(daily_job, "merge_table", merge_after_another)
        with pytest.raises(LakeError, match="another run changed the same sums meanwhile"):
            build_graph(spark, run)
    assert build(spark, run, days)["added_days"] == 5


def stop(*_):
    raise KeyboardInterrupt


def merge_after_another(rows, lake, spec, record, within, delete_where):
    merge_table(rows.limit(1), lake, spec, replace(record, run_id="another"), within, delete_where)
    return merge_table(rows, lake, spec, record, within, delete_where)
