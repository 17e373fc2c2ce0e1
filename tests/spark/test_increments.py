"""Sources that grow: any order and grouping of increments gives what plain Python makes of all lines at once."""

import shutil

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recspark.contracts.counts import add_counts
from recspark.graph.job import build_graph
from recspark.lake import arrow
from recspark.lake.lineage import find_ingest_ancestor
from recspark.pipeline.open_run import open_run
from recspark.sessions import increment, increment_commit
from recspark.sources import increment as source_increment
from tests.helpers import increments, sessions_oracle
from tests.helpers.sources import make_run, write_lines
from tests.spark.test_sessions_job import to_outside

pytestmark = pytest.mark.spark

CUT = {"kind": "time", "cut": "2026-01-03"}
CASES = {
    "gap": {
        "split": CUT | {"valid": {"kind": "user_share", "fraction": 0.3, "seed": 5}},
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


@pytest.fixture(autouse=True)
def _any_share(monkeypatch):
    """The logs are small: most increments touch most users."""
    monkeypatch.setattr(increment, "MAX_TOUCHED_SHARE", 10.0)


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


@pytest.mark.parametrize(("case", "seed"), [("gap", 1), ("rare_items", 2), ("last_out_by_basket", 3)])
def test_any_grouping_equals_one_full_build(spark, lake, tmp_path, case, seed):
    lines = increments.dirty_lines(seed)
    files = increments.cut_randomly(lines, 3, seed)
    folder = tmp_path / "log"
    before = None
    for number in range(len(files)):
        increments.write_files(folder, files[: number + 1])
        run = increments.plan(lake, folder, evaluate=None, **CASES[case])
        found = increments.build(spark, run)
        check_ingest(found, [line for lines in files[: number + 1] for line in lines])
        check_equals_plain_python(run, found)
        if before:
            check_went_on(before, found)
        before = found


def check_went_on(before, found):
    """It was an increment, and ids once given are the same."""
    for stage in ("ingest", "sessions"):
        assert found["records"][stage].facts["built_from"]["key"] == before["records"][stage].key[:12]
    for table, idx, id_ in (("items", "item_idx", "item_id"), ("users", "user_idx", "user_id")):
        given = {row[id_]: row[idx] for row in before["tables"][table]}
        now = {row[id_]: row[idx] for row in found["tables"][table]}
        assert given.items() <= now.items()


def test_event_ids_are_those_of_a_full_build(spark, lake, tmp_path):
    lines = increments.dirty_lines(7, 60)
    files = increments.cut_randomly(lines, 3, 7)
    found = {}
    for name in ("steps", "at once"):
        for number in (1, 2, 3) if name == "steps" else (3,):
            increments.write_files(tmp_path / name, files[:number])
            run = increments.plan(f"{lake}/{name}", tmp_path / name, evaluate=None, split=CUT)
            increments.ingest(spark, run)
        found[name] = arrow.read_table(arrow.find_table(run.lake, run.stages["ingest"], "events")).to_pylist()
    once, steps = (sorted(found[n], key=lambda e: e["event_id"]) for n in ("at once", "steps"))
    assert once == steps


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


def test_a_death_before_the_marker_is_mended_by_the_next_run(spark, lake, tmp_path, monkeypatch):
    lines = [increments.to_line(event) for event in sessions_oracle.random_events(9, 90)]
    increments.write_files(tmp_path / "log", [lines[:60]])
    increments.build(spark, increments.plan(lake, tmp_path / "log", evaluate=None, split=CUT))
    increments.write_files(tmp_path / "log", [lines[:60], lines[60:]])
    run = increments.plan(lake, tmp_path / "log", evaluate=None, split=CUT)
    for module, stage in ((source_increment, "ingest"), (increment_commit, "sessions")):

        def die(name, stage=stage):
            if name == f"{stage}.before_marker":
                raise KeyboardInterrupt(name)

        with monkeypatch.context() as patched:
            patched.setattr(module, "fault_point", die)
            with pytest.raises(KeyboardInterrupt, match="before_marker"):
                increments.build(spark, run)
        assert arrow.find_done(lake, run.stages[stage]) is None
    found = increments.build(spark, run)
    assert "built_from" in found["records"]["sessions"].facts
    check_ingest(found, lines)
    check_equals_plain_python(run, found)


def test_many_touched_users_are_built_in_full(spark, lake, tmp_path, monkeypatch):
    monkeypatch.setattr(increment, "MAX_TOUCHED_SHARE", 0.01)
    lines = [increments.to_line(event) for event in sessions_oracle.random_events(4, 90)]
    for number in (1, 2):
        increments.write_files(tmp_path / "log", [lines[:60], lines[60:]][:number])
        run = increments.plan(lake, tmp_path / "log", evaluate=None, split=CUT)
        found = increments.build(spark, run)
    assert "built_from" in found["records"]["ingest"].facts
    assert "built_from" not in found["records"]["sessions"].facts
    check_equals_plain_python(run, found)


def given_ids(lake, folder):
    columns = {"user_id": "u", "item_id": "i", "ts": "t", "event_id": "id"}
    source = {"kind": "files", "path": str(folder), "format": "csv", "columns": columns, "max_bad_ratio": 1.0}
    return make_run(lake, source, evaluate=None, split=CUT)


@pytest.mark.parametrize("wins", [False, True])
def test_repeats_of_given_ids_are_refused_as_in_a_full_build(spark, lake, tmp_path, wins):
    """Of rows with one id that of the smallest hash is kept: where the new one would be, all is read again."""
    rows = [f"{user},i1,2026-01-01,e1" for user in "abcdef"]
    kept = {}
    for row in rows:  # which of two rows a full build keeps
        write_lines(tmp_path / "pairs" / row[0] / "x.csv", "u,i,t,id", rows[0], row)
        run = given_ids(f"{lake}/{row[0]}", tmp_path / "pairs" / row[0])
        increments.ingest(spark, run)
        at = arrow.find_table(run.lake, run.stages["ingest"], "events")
        kept[row] = arrow.read_table(at).to_pylist()[0]["user_id"]
    other = next(row for row in rows[1:] if (kept[row] != "a") == wins)
    write_lines(tmp_path / "log" / "1.csv", "u,i,t,id", rows[0], "x,i2,2026-01-02,e2")
    increments.ingest(spark, given_ids(lake, tmp_path / "log"))
    write_lines(tmp_path / "log" / "2.csv", "u,i,t,id", other, "y,i3,2026-01-02,e3")
    run = given_ids(lake, tmp_path / "log")
    increments.ingest(spark, run)
    at = arrow.find_table(run.lake, run.stages["ingest"], "events")
    assert sorted(e["user_id"] for e in arrow.read_table(at).to_pylist()) == sorted([kept[other], "x", "y"])
    assert at.record.counts["quarantined"] == {"repeated_event_id": 1}
    assert ("built_from" in at.record.facts) is not wins


def test_versions_appended_to_a_delta_source_are_read_on(spark, lake, tmp_path):
    path = str(tmp_path / "foreign")
    events = sessions_oracle.random_events(6, 120)
    for part in (events[:80], events[80:100], events[100:]):
        columns = {"u": "user_id", "i": "item_id", "k": "event_type"}
        rows = pa.table({name: [e[key] for e in part] for name, key in columns.items()})
        rows = rows.append_column("t", pa.array([e["ts_us"] for e in part], pa.timestamp("us", "UTC")))
        write_deltalake(path, rows, mode="append")
        source = {"kind": "delta", "path": path}
        source["columns"] = {"user_id": "u", "item_id": "i", "ts": "t", "event_type": "k"}
        run = make_run(lake, source, evaluate=None, split=CUT)
        increments.ingest(spark, run)
    at = arrow.find_table(run.lake, run.stages["ingest"], "events")
    assert at.record.facts["built_from"]["rows_read"] == 20
    found = sorted((e["user_id"], e["item_id"], increments.micros(e["ts"])) for e in arrow.read_table(at).to_pylist())
    assert found == sorted((e["user_id"], e["item_id"], e["ts_us"]) for e in events)


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


def test_online_retail_day_by_day_equals_one_build(spark, lake, shared_data, tmp_path, monkeypatch):
    """Real days: five at once, two of which one comes late, one more; against plain Python and against one build."""
    monkeypatch.setattr(increment, "MAX_TOUCHED_SHARE", 0.8)
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


def test_counts_add_and_names_that_count_nothing_vanish():
    assert add_counts({"kept": 2, "dropped": {"b": 1}}, {"kept": 1, "dropped": {"a": 2, "b": -1}}) == {
        "kept": 3,
        "dropped": {"a": 2},
    }
