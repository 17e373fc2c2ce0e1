"""What a stage may go on from: sources that only grew, never one in which something changed."""

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from recspark.contracts.tables import EVENTS, ITEMS, SESSIONS, TABLES
from recspark.lake.arrow import TableAt, find_done, write_table
from recspark.lake.lineage import (
    find_ingest_ancestor,
    find_renumbering,
    find_sessions_ancestor,
    list_new_files,
)
from tests.helpers.sources import make_run, write_lines

COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t"}


def finish(run, stage, **record):
    """Commits a stage without a row; the marker's version."""
    *side, marker = run.stages[stage].spec.tables
    tables = {name: write_empty(run, TABLES[name], run.record(stage, is_marker=False)) for name in side}
    return write_empty(run, TABLES[marker], run.record(stage, is_marker=True, tables=tables, **record))


def write_empty(run, spec, record):
    return write_table(run.lake, spec, spec.schema.empty_table(), record)


def ingest(run):
    return finish(run, "ingest", inputs={"source": run.source})


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    write_lines(folder / "a.csv", "u,i,t", "1,a,2026-01-01")
    write_lines(folder / "b.csv", "u,i,t", "2,a,2026-01-01")
    return folder


@pytest.fixture
def plan(lake, log):
    def make(**more):
        source = {"kind": "files", "path": str(log), "format": "csv", "columns": COLUMNS} | more
        return make_run(lake, source)

    return make


def test_a_first_build_has_nothing_to_say(plan):
    found = find_ingest_ancestor(plan())
    assert (found.at, found.is_telling) == (None, False)


def test_new_files_go_on_from_the_newest_version_they_only_add_to(plan, log):
    ingest(plan())
    write_lines(log / "c.csv", "u,i,t", "3,a,2026-01-01")
    ingest(plan())
    (log / "c.csv").unlink()
    write_lines(log / "d.csv", "u,i,t", "4,a,2026-01-01")
    found = find_ingest_ancestor(plan())
    assert (found.at.version, found.new) == (0, ("d.csv",))
    assert found.describe() == "incremental from version 0: 1 new file"


def change(log):
    write_lines(log / "a.csv", "u,i,t", "1,b,2026-01-01")


def remove(log):
    (log / "a.csv").unlink()


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        (change, {}, "file a.csv has changed"),
        (remove, {}, "file a.csv has gone"),
        (lambda log: None, {"incremental": "off"}, "source.incremental is off"),
        (lambda log: None, {"timezone": "Asia/Tokyo"}, "no earlier version with these settings"),
    ],
)
def test_what_forbids_an_increment_is_said(plan, log, change, settings, reason):
    ingest(plan())
    change(log)
    write_lines(log / "c.csv", "u,i,t", "3,a,2026-01-01")
    found = find_ingest_ancestor(plan(**settings))
    assert found.describe() == f"in full: {reason}"


def test_a_duplicates_rule_has_to_come_last(plan, log):
    rules = [{"name": "twice", "duplicates": True}, {"name": "ones", "column": "u", "one_of": ["1"]}]
    found = find_ingest_ancestor(plan(rules=rules))
    assert "twice (duplicates) stands before other rules" in found.reason
    assert not find_ingest_ancestor(plan(rules=rules[::-1])).is_telling


def test_versions_of_other_table_formats_are_none_to_go_on_from(plan, log, monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(TABLES, "events", replace(EVENTS, format_version=1))
    ingest(plan())
    monkeypatch.undo()
    write_lines(log / "c.csv", "u,i,t", "3,a,2026-01-01")
    assert find_ingest_ancestor(plan()).at is None


def append(path):
    write_deltalake(path, pa.table({"u": ["2"], "i": ["b"], "t": ["2026-01-02"]}), mode="append")


def delete(path):
    DeltaTable(path).delete("u = '1'")


def compact(path):
    append(path)
    DeltaTable(path).optimize.compact()


def replace_all(path):
    write_deltalake(path, pa.table({"u": ["2"], "i": ["b"], "t": ["2026-01-02"]}), mode="overwrite")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((append, append), "incremental from version 0: 2 new files"),
        ((append, delete), "in full: version 2 of the source deletes or replaces rows"),
        ((replace_all,), "in full: version 1 of the source deletes or replaces rows"),
        ((append, compact), "in full: version 3 of the source compacts files that came in since"),
    ],
)
def test_a_delta_source_is_read_on_as_long_as_rows_are_only_added(lake, tmp_path, steps, expected):
    path = str(tmp_path / "foreign")
    write_deltalake(path, pa.table({"u": ["1"], "i": ["a"], "t": ["2026-01-01"]}))
    source = {"kind": "delta", "path": path, "columns": COLUMNS}
    ingest(make_run(lake, source))
    for step in steps:
        step(path)
    assert find_ingest_ancestor(make_run(lake, source)).describe() == expected


def test_sessions_go_on_from_those_whose_events_have_only_grown(plan, log, lake):
    first = plan()
    finish(first, "sessions", inputs={"events": ingest(first)})
    write_lines(log / "c.csv", "u,i,t", "3,a,2026-01-01")
    run = plan()
    assert find_sessions_ancestor(run, None).at.version == 0
    ingest(run)
    events = TableAt(lake, "events", *find_done(lake, run.stages["ingest"]))
    assert list_new_files(events, 0) == []
    found = find_sessions_ancestor(run, events)
    assert found.describe() == "incremental from version 0: events 0 to 1, which has only grown"
    other = make_run(lake, {"kind": "files", "path": str(log / "a.csv"), "format": "csv", "columns": COLUMNS})
    ingest(other)
    assert find_sessions_ancestor(other, TableAt(lake, "events", *find_done(lake, other.stages["ingest"]))).at is None


def test_what_was_made_of_other_ids_does_not_count(plan):
    """A table of ids that is lost and built again by another way: the graph made of the first has wrong ids."""
    run = plan()
    sessions = finish(run, "sessions", inputs={"events": ingest(run)})
    graph = run.record("graph", is_marker=True, inputs={"sessions": sessions, "items": 0})
    assert find_renumbering(run, graph) is None
    finish(run, "sessions", inputs={"events": 0})
    assert find_renumbering(run, graph) is None, "full builds repeat to the row"
    tables = {"quarantine": 1, "users": 1, "user_histories": 1}
    tables["items"] = write_empty(run, ITEMS, run.record("sessions", is_marker=False))
    marker = run.record("sessions", is_marker=True, tables=tables, facts={"built_from": {"version": 0}})
    write_empty(run, SESSIONS, marker)
    assert "made of items at version 0, whose ids may differ" in find_renumbering(run, graph)
