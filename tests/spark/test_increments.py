"""Sources that grow: any order and grouping of increments gives what plain Python makes of all lines at once."""

import os
import shutil

import pytest

from recspark.contracts import columns as c
from recspark.graph.job import build_graph
from recspark.lake import arrow
from recspark.lake.lineage import find_ingest_ancestor
from recspark.pipeline.open_run import open_run
from recspark.sessions import increment_commit
from recspark.sources import increment as source_increment
from tests.helpers import increments, sessions_oracle
from tests.spark.test_sessions_job import to_outside

pytestmark = pytest.mark.spark

CUT = {"kind": "time", "cut": "2026-01-03"}
CASES = {
    "gap": {
        "split": CUT | {"valid": {"kind": "user_share", "fraction": 0.3, "seed": 5}},
        "graph": {"incremental": True},
        "clean": {"max_user_events": 26, "max_events_per_minute": 3, "min_user_events": 2},
    },
    "rare_items": {
        "split": CUT,
        "sessions": {"gap_seconds": 7200, "max_items": 3, "max_span_seconds": 3600},
        "vocabulary": {"min_item_events": 4},
        "clean": {"event_types": ["view", "buy"]},
    },
    "last_out_by_basket": {
        "split": {"kind": "leave_last_out", "valid": {"kind": "last_k", "k": 2}},
        "sessions": {"group_by": "basket"},
        "clean": {"max_user_events": 22, "event_weights": {"cart": 0}},
        "vocabulary": {"min_item_events": 3},
    },
}


def outside(found):
    record = found["records"]["sessions"]
    rows = found["tables"] | {"histories": found["tables"]["user_histories"]}
    return to_outside(rows | {"counts": record.counts, "facts": record.facts})


def expect(config, events):
    expected = sessions_oracle.build_sessions(increments.to_oracle(events), config)
    expected["items"] = {row[1:] for row in expected["items"]}
    expected["users"] = {row[1:] for row in expected["users"]}
    return expected


def check_equals_plain_python(run, found):
    """Every table and count, but for the ids; those are dense, and expired rows stay inactive."""
    expected = expect(run.config, found["tables"]["events"])
    rows = found["tables"]
    seen = {r["item_idx"] for r in rows["items"] if r["first_seen"]}
    expired = [r for r in rows["items"] if not r["first_seen"]]
    assert all((r["num_events"], r["active"]) == (0, False) for r in expired)
    assert sorted(r["item_idx"] for r in rows["items"]) == list(range(len(rows["items"])))
    assert sorted(r["user_idx"] for r in rows["users"]) == list(range(len(rows["users"])))
    known = found | {"tables": rows | {"items": [r for r in rows["items"] if r["item_idx"] in seen]}}
    own = outside(known)
    histories = own["histories"]
    own["items"] = {row[1:] for row in own["items"]}
    own["users"] = {row[1:] for row in own["users"] if row[1] in histories}
    for name, values in expected.items():
        assert own[name] == values, name
    counts = found["records"]["sessions"].counts
    assert counts["events_in"] == len(rows["events"])
    assert counts["num_sessions"] == len(rows["sessions"])
    assert counts["num_users"] == len(rows["user_histories"])
    assert counts["collapsed"] == counts["kept"] - sum(len(r["item_idx"]) for r in rows["sessions"])
    assert len({r["session_id"] for r in rows["sessions"]}) == len(rows["sessions"])
    active = sum(r["active"] for r in rows["items"])
    assert (counts["num_items"], counts["num_active_items"]) == (len(rows["items"]), active)


def expect_kept(lines):
    """(user, item) of each line that becomes an event."""
    return sorted(tuple(line.split(",")[:2]) for line in {*lines} if not line.startswith(","))


def check_ingest(found, lines):
    """The counts and rows of a full build of all lines."""
    counts = found["records"]["ingest"].counts
    kept = expect_kept(lines)
    assert sorted((e["user_id"], e["item_id"]) for e in found["tables"]["events"]) == kept
    bad = {line for line in lines if line.startswith(",")}
    assert (counts["rows_in"], counts["kept"]) == (len(lines), len(kept))
    assert counts["quarantined"] == ({"missing_user_id": len(bad)} if bad else {})
    assert counts["dropped"].get("same_line", 0) == len(lines) - len(kept) - len(bad)
    assert [reason for reason, _ in found["refused"]["ingest"]] == ["missing_user_id"] * len(bad)
    ids = [e["event_id"] for e in found["tables"]["events"]]
    assert len(set(ids)) == len(ids)
    assert counts["days"] == len({e["day"] for e in found["tables"]["events"]})


def drawn():
    """Each case with a seed of its own, and more of them by ``RECSPARK_SEEDS="4 5 6"``."""
    more = [int(seed) for seed in os.environ.get("RECSPARK_SEEDS", "").split()]
    return [*zip(CASES, (1, 2, 3), strict=True), *((case, seed) for seed in more for case in CASES)]


@pytest.mark.parametrize(("case", "seed"), drawn())
def test_any_order_and_grouping_equals_one_full_build(spark, lake, tmp_path, monkeypatch, case, seed):
    """Drawn arrivals; the second of one case dies before each marker first and goes on from what that left."""
    lines = increments.dirty_lines(seed)
    folder = tmp_path / "log"
    come, before = [], None
    for files in increments.draw_arrivals(lines, seed):
        increments.write_named(folder, files)
        come += [line for lines in files.values() for line in lines]
        run = increments.plan(lake, folder, evaluate=None, **CASES[case])
        if before and case == "rare_items":
            die_before_each_marker(spark, run, monkeypatch)
        found = increments.build(spark, run)
        check_ingest(found, come)
        check_equals_plain_python(run, found)
        if run.config.graph.incremental:
            build_graph(spark, run)
        if before:
            check_went_on(before, found)
        before = found
    assert sorted(come) == sorted(lines)
    at_once = increments.plan(f"{lake}/at once", folder, evaluate=None, **CASES[case])
    check_same_events(increments.build(spark, at_once), found)
    graph = read_graph(spark, run)
    assert graph == read_graph(spark, at_once)
    assert len(graph) >= 8


def die_before_each_marker(spark, run, monkeypatch):
    """Each stage is stopped between its last table and its marker; it is not done then."""
    for module, stage in ((source_increment, "ingest"), (increment_commit, "sessions")):

        def die(name, stage=stage):
            if name == f"{stage}.before_marker":
                raise KeyboardInterrupt(name)

        with monkeypatch.context() as patched:
            patched.setattr(module, "fault_point", die)
            with pytest.raises(KeyboardInterrupt, match="before_marker"):
                increments.build(spark, run)
        assert arrow.find_done(run.lake, run.stages[stage]) is None


def check_same_events(once, found):
    """The events of an ingest of all files at once, ids too; those that differ in no mapped column may swap theirs."""
    for left_out in (c.ROW_HASH, c.EVENT_ID):
        events = [sorted(repr(e | {left_out: None}) for e in rows["tables"]["events"]) for rows in (once, found)]
        assert events[0] == events[1]


def check_went_on(before, found):
    """It was an increment, and ids once given are the same."""
    for stage in ("ingest", "sessions"):
        assert found["records"][stage].facts["built_from"]["key"] == before["records"][stage].key[:12]
    check_ids_stayed(before, found)


def check_ids_stayed(before, found):
    """Ids once given are the same."""
    for table, idx, id_ in (("items", "item_idx", "item_id"), ("users", "user_idx", "user_id")):
        given = {row[id_]: row[idx] for row in before["tables"][table]}
        now = {row[id_]: row[idx] for row in found["tables"][table]}
        assert given.items() <= now.items()


def test_a_changed_file_is_said_and_its_users_alone_are_built_anew(spark, lake, tmp_path):
    """A correction: ingest reads all, sessions compares rows; two configs share the lake in between."""
    events = sessions_oracle.random_events(11, 150)
    lines = [increments.to_line(event) for event in events]
    folder = tmp_path / "log"
    increments.write_files(folder, [lines[:100], lines[100:]])
    settings = {"evaluate": None} | CASES["gap"]
    first = increments.build(spark, increments.plan(lake, folder, **settings))
    other = increments.plan(lake, folder, **(settings | {"sessions": {"gap_seconds": 60}}))
    increments.build(spark, other)
    increments.write_files(folder, [lines[:100], lines[100:-4]])
    run = increments.plan(lake, folder, **settings)
    assert find_ingest_ancestor(run).describe() == "in full: file part-1.csv has changed"
    found = increments.build(spark, run)
    built_from = found["records"]["sessions"].facts["built_from"]
    assert built_from["users_touched"] == len({line.split(",")[0] for line in lines[-4:]})
    assert "built_from" not in found["records"]["ingest"].facts
    check_equals_plain_python(run, found)
    given = {row["item_id"]: row["item_idx"] for row in first["tables"]["items"]}
    assert given.items() <= {row["item_id"]: row["item_idx"] for row in found["tables"]["items"]}.items()
    check_equals_plain_python(other, increments.read(other))
    assert len(found["tables"]["sessions"]) > built_from["sessions_written"]


def test_ids_stay_though_most_users_are_touched_and_the_first_and_last_events_are_gone(spark, lake, tmp_path):
    events = sorted(sessions_oracle.random_events(11, 150), key=lambda event: event["ts_us"])
    lines = [increments.to_line(event) for event in events]
    folder = tmp_path / "log"
    settings = {"evaluate": None} | CASES["gap"]
    increments.write_files(folder, [lines])
    first = increments.build(spark, increments.plan(lake, folder, **settings))
    increments.write_files(folder, [lines[1::2][:-1]])  # every other one, of nearly all users
    run = increments.plan(lake, folder, **settings)
    found = increments.build(spark, run)
    users = {line.split(",")[0] for line in lines}
    assert found["records"]["sessions"].facts["built_from"]["users_touched"] > 0.8 * len(users)
    assert found["records"]["sessions"].facts["time_range"] != first["records"]["sessions"].facts["time_range"]
    check_ids_stayed(first, found)
    check_equals_plain_python(run, found)


def read_graph(spark, run):
    """Edges by outside ids."""
    build_graph(spark, run)
    tables = {n: arrow.read_table(arrow.find_table(run.lake, run.producer(n), n)) for n in ("items", "item_graph")}
    ids = {row["item_idx"]: row["item_id"] for row in tables["items"].to_pylist()}
    return {
        (ids[row["src_idx"]], ids[dst]): (round(score, 5), count)
        for row in tables["item_graph"].to_pylist()
        for dst, score, count in zip(row["dst_idx"], row["score"], row["count"], strict=True)
    }


def retail_run(lake, folder):
    overrides = [f"source.path={folder}", f"paths.lake={lake}", "split.cut=2010-12-08T12:00:00Z", "evaluate=null"]
    return open_run("conf/online_retail.yaml", [*overrides, "graph.num_neighbours=5000"])


def test_online_retail_day_by_day_equals_one_build(spark, lake, shared_data, tmp_path):
    """Real days: five at once, two of which one comes late, one more; against plain Python and against one build."""
    days = sorted((shared_data / "online-retail" / "by-day").glob("2010-12-*.csv.gz"))[:8]
    late = [days[0], days[2], days[3], days[4], days[5]], [days[1], days[6]], [days[7]]
    folder = tmp_path / "days"
    folder.mkdir()
    for part in late:
        for file in part:
            shutil.copyfile(file, folder / file.name)
        run = retail_run(f"{lake}/steps", folder)
        found = increments.build(spark, run)
        check_equals_plain_python(run, found)
    facts = found["records"]["sessions"].facts["built_from"]
    assert 0 < facts["users_touched"] < 0.5 * len(found["tables"]["users"])
    once = retail_run(f"{lake}/once", folder)
    full = increments.build(spark, once)
    assert found["records"]["ingest"].counts == full["records"]["ingest"].counts
    assert found["records"]["sessions"].counts == full["records"]["sessions"].counts
    for table, idx in (("events", ""), ("items", "item_idx"), ("users", "user_idx")):
        rows = [sorted(repr(r | {idx: None}) for r in f["tables"][table]) for f in (found, full)]
        assert rows[0] == rows[1], table
    ids = [{r["session_id"] for r in f["tables"]["sessions"]} for f in (found, full)]
    assert ids[0] == ids[1]
    assert read_graph(spark, run) == read_graph(spark, once)
