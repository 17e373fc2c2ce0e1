"""Increments with features that change, filters by type, sessions by user; and the graph that grows with them."""

import json
import random

import pytest

from recspark.lake import arrow
from tests.helpers import increments, sessions_oracle
from tests.helpers.sources import write_lines
from tests.spark.test_increments import check_equals_plain_python, check_went_on, read_graph

pytestmark = pytest.mark.spark

CUT = {"kind": "time", "cut": "2026-01-03"}
TYPES = {"clean": {"event_types": ["view", "cart", "buy"], "event_weights": {"cart": 0, "buy": 3}}}


def feature(name, path, column, **more):
    return {"name": name, "path": str(path), "key": "id", "column": column, "format": "jsonl"} | more


def write_features(folder, items, users):
    """The two files anew: {id: genre or country}."""
    for name, values in (("items", items), ("users", users)):
        write_lines(folder / f"{name}.jsonl", *(json.dumps({"id": i, "value": v}) for i, v in values.items()))


def features_of(folder):
    return [
        feature("genre", folder / "items.jsonl", "value", missing="none"),
        feature("land", folder / "users.jsonl", "value", of="user"),
    ]


def by_id(rows, id_column, idx_column):
    """id -> row without its idx."""
    return {row[id_column]: {k: v for k, v in row.items() if k != idx_column} for row in rows}


def outside(found):
    """Tables by ids of the source; only users with a history, as an increment keeps those who have expired."""
    tables = found["tables"]
    users = by_id(tables["users"], "user_id", "user_idx")
    has_history = {row["user_idx"] for row in tables["user_histories"]}
    return {
        "items": by_id(tables["items"], "item_id", "item_idx"),
        "users": {row["user_id"]: users[row["user_id"]] for row in tables["users"] if row["user_idx"] in has_history},
        "sessions": sorted(row["session_id"] for row in tables["sessions"]),
    }


def test_features_that_change_and_come_equal_a_full_build(spark, lake, tmp_path):
    """By steps: rows and features; then features alone; then rows of new ids and features of known and new ones."""
    lines = [increments.to_line(e) for e in sessions_oracle.random_events(21, 120)]
    lines, new = lines[:-10], [line.replace(",i", ",new", 1) for line in lines[-10:]]
    folder, places = tmp_path / "log", tmp_path / "features"
    sections = TYPES | {"evaluate": None, "split": CUT, "sessions": {"group_by": "basket"}}
    steps = [
        ([lines[:80]], {"i0": "a", "i1": "b", "only": "c"}, {"u0": "de", "u1": "fr"}),
        ([lines[:80]], {"i0": "a", "i1": "changed", "only": "c", "later": "d"}, {"u0": "it", "u2": "de"}),
        (
            [lines[:80], lines[80:] + new],
            {"i0": "a2", "i1": "changed", "only": "c", "later": "d", "new3": "e"},
            {"u1": "es"},
        ),
    ]
    before = None
    for files, items, users in steps:
        increments.write_files(folder, files)
        write_features(places, items, users)
        run = increments.plan(lake, folder, features=features_of(places), **sections)
        found = increments.build(spark, run)
        known = {row["item_id"]: row["f_genre"] for row in found["tables"]["items"]}
        assert {i: known[i] for i in items if i in known} == {i: items[i] for i in items if i in known}
        assert items.keys() - known.keys() <= {"new3"}
        assert known["i2"] == "none"
        land = {row["user_id"]: row["f_land"] for row in found["tables"]["users"]}
        assert land == {user: users.get(user) for user in land}
        if before:
            check_went_on(before, found)
        before = found
    once = increments.plan(f"{lake}-once", folder, features=features_of(places), **sections)
    full = increments.build(spark, once)
    assert outside(found) == outside(full)
    for stage in ("ingest", "sessions"):
        assert found["records"][stage].counts == full["records"][stage].counts


def test_types_weights_and_sessions_by_user_equal_plain_python(spark, lake, tmp_path):
    files = increments.cut_randomly(increments.dirty_lines(31), 3, 31)
    before = None
    for number in (1, 2, 3):
        increments.write_files(tmp_path / "log", files[:number])
        sections = {"evaluate": None, "split": CUT, "sessions": {"group_by": "user"}}
        run = increments.plan(lake, tmp_path / "log", **TYPES, **sections)
        found = increments.build(spark, run)
        check_equals_plain_python(run, found)
        if before:
            check_went_on(before, found)
        before = found


def days_of(seed):
    """Lines of eight days; the last two also bring late ones of the first two."""
    rng, by_day = random.Random(seed), {}
    for half in range(2):
        for event in sessions_oracle.random_events(seed + half, 120, num_users=9, num_items=12):
            event = event | {"ts_us": event["ts_us"] + 4 * half * sessions_oracle.DAY_US}
            by_day.setdefault(event["ts_us"] // sessions_oracle.DAY_US, []).append(increments.to_line(event))
    days = [by_day[day] for day in sorted(by_day)]
    for early, late in ((0, 6), (1, 7)):
        moved = rng.sample(days[early], 3)
        days[late] += moved
        days[early] = [line for line in days[early] if line not in moved]
    return days


def test_a_graph_of_days_on_sessions_of_days_equals_one_build(spark, lake, tmp_path):
    """Three times ingest, sessions and graph on what has come; then all of it at once, without increments anywhere."""
    days = days_of(41)
    folder = tmp_path / "log"
    same = {"evaluate": None, "split": {"kind": "time", "cut": "2026-01-08"}, "sessions": {"gap_seconds": 600}}
    same |= {"vocabulary": {"min_item_events": 3}}
    graph = {"score": "cosine", "num_neighbours": 500}
    added = []
    for number in (6, 7, 8):
        increments.write_files(folder, days[:number])
        run = increments.plan(lake, folder, graph=graph | {"incremental": True}, **same)
        found = increments.build(spark, run)
        edges = read_graph(spark, run)
        added.append(arrow.find_done(lake, run.stages["graph"])[1].counts["added_days"])
        assert ("built_from" in found["records"]["sessions"].facts) == (number > 6)
    once = increments.plan(f"{lake}-once", folder, graph=graph, **same)
    increments.build(spark, once)
    assert edges == read_graph(spark, once)
    assert len(edges) > 30
    assert added[0] == 6
    assert max(added[1:]) < 4  # the day that came, and those that a late event touched
