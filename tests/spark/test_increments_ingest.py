"""What ingest alone makes of a source that grows: repeats of given ids, versions appended to a Delta table."""

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recspark.contracts.counts import add_counts
from recspark.lake import arrow
from recspark.sources.job import ingest
from tests.helpers import increments, sessions_oracle
from tests.helpers.sources import make_run, write_lines

pytestmark = pytest.mark.spark

CUT = {"kind": "time", "cut": "2026-01-03"}
HEADER = "u,i,t,id"
ROWS = [f"{user},i1,2026-01-01,e1" for user in "abcdef"]
"""Of one given id."""


def ingest_given_ids(spark, lake, folder):
    """`events` as ingest leaves them: its place and its users, sorted."""
    columns = {"user_id": "u", "item_id": "i", "ts": "t", "event_id": "id"}
    source = {"kind": "files", "path": str(folder), "format": "csv", "columns": columns, "max_bad_ratio": 1.0}
    run = make_run(lake, source, evaluate=None, split=CUT)
    ingest(spark, run)
    at = arrow.find_table(run.lake, run.stages["ingest"], "events")
    return at, sorted(arrow.read_table(at)["user_id"].to_pylist())


def test_repeats_of_given_ids_are_refused_as_in_a_full_build(spark, lake, tmp_path):
    """Of rows with one id that of the smallest hash is kept: where the new one would be, all is read again."""
    write_lines(tmp_path / "all.csv", HEADER, *ROWS)
    _, (kept,) = ingest_given_ids(spark, f"{lake}/all", tmp_path / "all.csv")
    winner = next(row for row in ROWS if row[0] == kept)
    loser = next(row for row in ROWS if row != winner)
    for first, second in ((winner, loser), (loser, winner)):
        folder, own_lake = tmp_path / f"then_{second[0]}", f"{lake}/{second[0]}"
        write_lines(folder / "1.csv", HEADER, first, "x,i2,2026-01-02,e2")
        ingest_given_ids(spark, own_lake, folder)
        write_lines(folder / "2.csv", HEADER, second, "y,i3,2026-01-02,e3")
        at, users = ingest_given_ids(spark, own_lake, folder)
        assert users == [kept, "x", "y"]
        assert at.record.counts["quarantined"] == {"repeated_event_id": 1}
        assert ("built_from" in at.record.facts) is (first == winner)


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
        ingest(spark, run)
    at = arrow.find_table(run.lake, run.stages["ingest"], "events")
    assert at.record.facts["built_from"]["rows_read"] == 20
    found = sorted((e["user_id"], e["item_id"], increments.micros(e["ts"])) for e in arrow.read_table(at).to_pylist())
    assert found == sorted((e["user_id"], e["item_id"], e["ts_us"]) for e in events)


def test_counts_add_and_names_that_count_nothing_vanish():
    assert add_counts({"kept": 2, "dropped": {"b": 1}}, {"kept": 1, "dropped": {"a": 2, "b": -1}}) == {
        "kept": 3,
        "dropped": {"a": 2},
    }
