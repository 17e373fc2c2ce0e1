"""Versions found by key, slices replaced, contracts held, foreign tables refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import ITEM_GRAPH, ITEMS, METRICS
from recspark.errors import LakeError
from recspark.lake import arrow
from recspark.lake.arrow import (
    TableAt,
    check_plain_files,
    count_rows,
    count_values,
    find_commit,
    find_done,
    find_newest_marker,
    find_table,
    open_table,
    read_record,
    read_table,
    stream_table,
    table_uri,
    write_table,
)


def run_with(lake: str, **sections):
    config = {"split": {"kind": "time", "cut": "2026-01-01"}, "paths": {"lake": lake}, **sections}
    return plan_run(RunConfig.model_validate(config), {"fingerprint": "f00"})


def graph_of(score: float) -> pa.Table:
    rows = {"src_idx": [0], "dst_idx": [[1]], "score": [[score]], "count": [[2]]}
    return pa.table(rows, ITEM_GRAPH.schema)


def metrics_of(key: str, value: float) -> pa.Table:
    row = {
        "stage_key": key,
        "model_id": "m",
        "name": "recall",
        "k": 20,
        "value": value,
        "segment": "all",
        "num_users": 3,
    }
    return pa.Table.from_pylist([row], METRICS.schema)


def test_two_configs_share_a_table_and_each_reads_its_own(lake):
    runs = [run_with(lake, graph={"num_neighbours": n}) for n in (10, 20)]
    for run, score in zip(runs, (0.25, 0.5), strict=True):
        write_table(lake, ITEM_GRAPH, graph_of(score), run.record("graph", is_marker=True))
    found = [find_table(lake, run.stages["graph"], "item_graph") for run in runs]
    assert [t.version for t in found] == [0, 1]
    assert [read_table(t)["score"].to_pylist() for t in found] == [[[0.25]], [[0.5]]]


def test_only_the_marker_means_done(lake):
    run = run_with(lake)
    version = write_table(lake, ITEMS, ITEMS.schema.empty_table(), run.record("sessions", is_marker=False))
    assert find_commit(lake, "items", run.stages["sessions"].key) is not None
    assert find_done(lake, run.stages["sessions"]) is None
    from recspark.contracts.tables import SESSIONS

    record = run.record("sessions", is_marker=True, tables={"items": version})
    write_table(lake, SESSIONS, SESSIONS.schema.empty_table(), record)
    assert find_done(lake, run.stages["sessions"]) == (0, record)
    assert find_table(lake, run.stages["sessions"], "items").version == version


def test_an_unfinished_stage_says_what_to_run(lake):
    with pytest.raises(LakeError, match=r"no version for this config \(stage graph, .*`recspark run CONF --to graph`"):
        find_table(lake, run_with(lake).stages["graph"], "item_graph")


def test_a_slice_is_replaced_alone(lake):
    run = run_with(lake)
    for key, value in (("a", 0.1), ("b", 0.2), ("a", 0.3)):
        record = run.record("evaluate", is_marker=True)
        write_table(lake, METRICS, metrics_of(key, value), record, replace=f"stage_key = '{key}'")
    rows = open_table(lake, "metrics").to_pyarrow_table().to_pylist()
    assert sorted((r["stage_key"], r["value"]) for r in rows) == [("a", 0.3), ("b", 0.2)]


def test_rows_that_do_not_fit_are_refused_before_a_commit(lake):
    record = run_with(lake).record("graph", is_marker=True)
    with pytest.raises(LakeError, match="item_graph: rows do not fit"):
        write_table(lake, ITEM_GRAPH, pa.table({"src_idx": ["a"]}), record)
    with pytest.raises(LakeError, match="no such table"):
        open_table(lake, "item_graph")


def test_features_follow_the_contract_columns(lake):
    items = ITEMS.schema.empty_table().append_column("f_genre", pa.array([], pa.string()))
    write_table(lake, ITEMS, items, run_with(lake).record("sessions", is_marker=False))
    assert open_table(lake, "items").to_pyarrow_table().column_names[-1] == "f_genre"


def test_a_version_that_is_gone(lake):
    run = run_with(lake)
    write_table(lake, ITEM_GRAPH, graph_of(1.0), run.record("graph", is_marker=True))
    with pytest.raises(LakeError, match="version 7 is gone or unreadable"):
        open_table(lake, "item_graph", 7)


@pytest.mark.parametrize("content", ["", "garbage", '{"protocol": {"minRe'])
def test_a_damaged_log_names_its_table_and_what_to_do(lake, content):
    run = run_with(lake)
    write_table(lake, ITEM_GRAPH, graph_of(1.0), run.record("graph", is_marker=True))
    for entry in Path(table_uri(lake, "item_graph"), "_delta_log").glob("*.json"):
        entry.write_text(content)
    with pytest.raises(LakeError) as found:
        find_done(lake, run.stages["graph"])
    message = str(found.value)
    assert len(message.splitlines()) == 1, "no stack of delta-rs"
    assert "item_graph: the log of this Delta table is damaged" in message
    assert "restore" in message
    assert "run `recspark run CONF` again" in message


def commit_runs(lake, num_commits):
    """So many versions of item_graph, each by a run of its own."""
    runs = [run_with(lake, graph={"num_neighbours": 5 + n}) for n in range(num_commits)]
    for n, run in enumerate(runs):
        write_table(lake, ITEM_GRAPH, graph_of(float(n)), run.record("graph", is_marker=True, counts={"n": n}))
    return runs


def test_every_version_has_its_own_record(lake):
    commit_runs(lake, 20)
    assert [read_record(lake, "item_graph", version).counts["n"] for version in range(20)] == list(range(20))


def test_a_commit_that_comes_in_between_takes_no_other_s_version(lake, monkeypatch):
    """Two trainings share item_embeddings: a table opened before the other's commit lists that one, too."""
    first, second = commit_runs(lake, 2)
    plain, rows = arrow.open_table, graph_of(7.0)

    def late(*place):
        table = plain(*place)
        monkeypatch.setattr(arrow, "open_table", plain)
        write_table(lake, ITEM_GRAPH, rows, run_with(lake).record("graph", is_marker=True))
        return table

    monkeypatch.setattr(arrow, "open_table", late)
    assert find_done(lake, first.stages["graph"])[0] == 0
    monkeypatch.setattr(arrow, "open_table", late)
    assert find_done(lake, second.stages["graph"])[0] == 1


def test_commits_of_others_count_as_versions(lake):
    """OPTIMIZE by hand; and a writer that leaves no commitInfo, of which delta-rs' history says nothing."""
    first, _, third = commit_runs(lake, 3)
    open_table(lake, "item_graph").optimize.compact()
    log = Path(table_uri(lake, "item_graph"), "_delta_log", f"{1:020d}.json")
    log.write_text("\n".join(line for line in log.read_text().splitlines() if "commitInfo" not in line))
    assert find_done(lake, first.stages["graph"])[0] == 0
    assert find_done(lake, third.stages["graph"])[0] == 2
    assert read_record(lake, "item_graph", 1) is None


def test_a_commit_that_was_cleaned_away_is_no_other_s(lake):
    runs = commit_runs(lake, 4)
    open_table(lake, "item_graph").create_checkpoint()
    for version in (0, 1):
        Path(table_uri(lake, "item_graph"), "_delta_log", f"{version:020d}.json").unlink()
    with pytest.raises(LakeError, match=r"0{19}1\.json: not there, so what version 1 .* is not known; restore this"):
        read_record(lake, "item_graph", 1)
    assert read_record(lake, "item_graph", 2).counts["n"] == 2
    assert [done and done[0] for done in (find_done(lake, run.stages["graph"]) for run in runs)] == [None, None, 2, 3]
    with pytest.raises(LakeError, match="version 9 of the table"):
        read_record(lake, "item_graph", 9)


def test_tables_with_mapped_columns_are_refused(tmp_path):
    uri = str(tmp_path / "foreign")
    write_deltalake(uri, pa.table({"a": [1]}))
    log = tmp_path / "foreign" / "_delta_log" / "00000000000000000000.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "metaData" in line:
            line["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
    log.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(LakeError, match=r"column mapping is on: copy the table"):
        check_plain_files(DeltaTable(uri), uri)


def test_newest_marker_of_a_stage_under_any_key(lake):
    assert find_newest_marker(lake, "item_graph", "graph") is None
    run = run_with(lake)
    write_table(lake, ITEM_GRAPH, graph_of(1.0), run.record("graph", is_marker=True))
    found = find_newest_marker(lake, "item_graph", "graph")
    assert found is not None
    assert found.key == run.stages["graph"].key
    assert find_newest_marker(lake, "item_graph", "item_knn_graph") is None


def test_history_is_kept_for_time_travel(lake):
    write_table(lake, ITEM_GRAPH, graph_of(1.0), run_with(lake).record("graph", is_marker=True))
    properties = open_table(lake, "item_graph").metadata().configuration
    assert properties["delta.logRetentionDuration"] == "interval 3650 days"
    assert properties["delta.deletedFileRetentionDuration"] == "interval 3650 days"
    assert table_uri(lake, "item_graph").endswith("/tables/item_graph")


def test_a_stage_whose_side_table_is_gone_is_not_done(lake):
    run = run_with(lake)
    version = write_table(lake, ITEMS, ITEMS.schema.empty_table(), run.record("sessions", is_marker=False))
    from recspark.contracts.tables import SESSIONS

    record = run.record("sessions", is_marker=True, tables={"items": version})
    write_table(lake, SESSIONS, SESSIONS.schema.empty_table(), record)
    assert find_done(lake, run.stages["sessions"])
    shutil.rmtree(table_uri(lake, "items"))
    assert find_done(lake, run.stages["sessions"]) is None


def test_a_lost_data_file_is_named(lake):
    run = run_with(lake)
    write_table(lake, ITEM_GRAPH, graph_of(1.0), run.record("graph", is_marker=True))
    for path in Path(table_uri(lake, "item_graph")).glob("*.parquet"):
        path.unlink()
    with pytest.raises(LakeError, match=r"a data file of version 0 is lost or damaged .*; restore it, or remove"):
        read_table(find_table(lake, run.stages["graph"], "item_graph"))


def test_a_store_that_cannot_be_asked_is_named(monkeypatch):
    def refuse(uri):
        raise OSError("Generic S3 error\n  \x1b[31m↳\x1b[0m list request\n  \x1b[31m↳\x1b[0m Connection refused\n")

    monkeypatch.setattr(arrow.DeltaTable, "is_deltatable", refuse)
    with pytest.raises(LakeError) as caught:
        arrow.has_table("s3a://bucket/lake", "items")
    assert str(caught.value) == (
        "s3a://bucket/lake/tables/items: the store cannot be asked (Generic S3 error: ... Connection refused); "
        "check paths.lake, the network and the store's credentials in the environment"
    )


READS_AND_ENDS = """
import sys
from recspark.lake.arrow import TableAt, read_table
table = TableAt(sys.argv[1], "items", int(sys.argv[2]), None)
assert read_table(table, ["a"]).num_rows == 12_000
"""


def test_a_process_that_has_read_a_table_ends_well(tmp_path):
    """A quarter of such processes aborted at their end while arrow's threads called Python to read files."""
    uri = table_uri(str(tmp_path), "items")
    for _ in range(12):
        write_deltalake(uri, pa.table({"a": list(range(1000)), "b": [0.5] * 1000}), mode="append")
    command = [sys.executable, "-c", READS_AND_ENDS, str(tmp_path), "11"]
    ended = [subprocess.run(command, capture_output=True, text=True, timeout=60, check=False) for _ in range(12)]
    assert [(done.returncode, done.stderr) for done in ended] == [(0, "")] * len(ended)


def test_a_table_is_streamed_in_pieces_that_hold_every_row_once(lake):
    run = run_with(lake)
    rows = pa.table(
        {"src_idx": range(250), "dst_idx": [[1]] * 250, "score": [[0.5]] * 250, "count": [[2]] * 250},
        ITEM_GRAPH.schema,
    )
    write_table(lake, ITEM_GRAPH, rows, run.record("graph", is_marker=True))
    table = find_table(lake, run.stages["graph"], "item_graph")
    pieces = [batch["src_idx"].to_pylist() for batch in stream_table(table, ["src_idx"], 100)]
    assert max(map(len, pieces)) <= 100
    assert sorted(row for piece in pieces for row in piece) == list(range(250))
    assert pieces == [batch["src_idx"].to_pylist() for batch in stream_table(table, ["src_idx"], 100)]
    for file in open_table(lake, "item_graph").file_uris():
        Path(file).unlink()
    with pytest.raises(LakeError, match="item_graph: a data file of version 0 is lost or damaged"):
        list(stream_table(table, ["src_idx"], 100))


def test_rows_and_list_values_are_counted_without_reading_them(lake):
    run = run_with(lake)
    rows = {
        "src_idx": pa.array([0, 1, 2], pa.int32()),
        "dst_idx": [[1, 2, 0], [0], []],
        "score": [[1.0, 2.0, 3.0], [1.0], []],
        "count": [[1, 2, 3], [1], []],
    }
    for keep in (3, 2):
        version = write_table(
            lake, ITEM_GRAPH, pa.table(rows, ITEM_GRAPH.schema).slice(0, keep), run.record("graph", is_marker=True)
        )
        table = TableAt(lake, "item_graph", version, run.record("graph", is_marker=True))
        assert count_rows(table) == keep
        assert count_values(table, "dst_idx") == (5 if keep == 3 else 4)  # an empty list counts as one
        assert count_values(table, "src_idx") == keep


def test_counting_names_a_lost_file(lake):
    run = run_with(lake)
    record = run.record("graph", is_marker=True)
    table = TableAt(lake, "item_graph", write_table(lake, ITEM_GRAPH, graph_of(1.0), record), record)
    for path in (Path(lake) / "tables" / "item_graph").glob("*.parquet"):
        path.unlink()
    with pytest.raises(LakeError, match="item_graph"):
        count_values(table, "dst_idx")
