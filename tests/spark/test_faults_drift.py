"""Columns that come, go, are renamed or change their type from file to file: read in full, quarantined, or refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from recspark.errors import SourceError
from recspark.sources.job import ingest
from recspark.sources.look import look_at_source
from tests.helpers.sources import make_run, rows_and_record, write_lines

pytestmark = pytest.mark.spark

COLUMNS = {"user_id": "u", "item_id": "i", "event_type": "k", "ts": "t"}
FIRST = [{"u": "1", "i": "a", "k": "view"}, {"u": "2", "i": "b", "k": "buy"}]
TIME = {"t": "2020-01-01"}
SAME_LINE = [{"name": "same", "duplicates": True}]


def write_file(folder, name, file_format, rows):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{file_format}"
    rows = [row | TIME for row in rows]
    if file_format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif file_format == "jsonl":
        write_lines(path, *map(json.dumps, rows))
    else:
        write_lines(path, ",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows))


def grow(spark, lake, folder, file_format, later, **source):
    """The run over two files, the second of which came a day later; the first was ingested by itself."""
    section = {"kind": "files", "path": str(folder), "format": file_format, "columns": COLUMNS, "max_bad_ratio": 1.0}
    write_file(folder, "a", file_format, FIRST)
    ingest(spark, make_run(lake, section | source))
    write_file(folder, "b", file_format, later)
    run = make_run(lake, section | source)
    look_at_source(run.config)
    ingest(spark, run)
    return run


def outcome(run):
    """(events, counts without days); the counts add up."""
    events, record = rows_and_record(run, "events")
    counts = {name: record.counts[name] for name in ("rows_in", "kept", "dropped", "quarantined")}
    bad = sum(counts["quarantined"].values())
    assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values()) + bad
    assert len(events) == counts["kept"]
    quarantine = [q for q in rows_and_record(run, "quarantine")[0] if q["stage_key"] == record.key]
    assert len(quarantine) == bad
    return sorted((e["user_id"], e["item_id"], e["event_type"]) for e in events), counts, quarantine


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_an_added_column_tells_rows_apart(spark, lake, tmp_path, file_format):
    """Two rows that differ in it alone are two; before, the second would have passed for a copy of the first."""
    later = [FIRST[0] | {"shop": "x"}, FIRST[0] | {"shop": "y"}, FIRST[0] | {"shop": "y"}]
    run = grow(spark, lake, tmp_path / "in", file_format, later, rules=SAME_LINE)
    events, counts, _ = outcome(run)
    assert events == sorted([*(tuple(r.values()) for r in FIRST), *[("1", "a", "view")] * 2])
    assert counts == {"rows_in": 5, "kept": 4, "dropped": {"same": 1}, "quarantined": {}}


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_a_renamed_column_is_quarantined_or_said(spark, lake, tmp_path, capsys, file_format):
    later = [{"user": "3", "i": "a", "k": "view"}, {"user": "4", "i": "a", "k": "view"}]
    events, counts, quarantine = outcome(grow(spark, lake, tmp_path / "in", file_format, later))
    assert len(events) == 2
    assert counts["quarantined"] == {"missing_user_id": 2}
    assert sorted(json.loads(q["raw"])["user"] for q in quarantine) == ["3", "4"]
    assert all(q["source_file"].endswith(f"b.{file_format}") for q in quarantine)
    said = "column 'u' (source.columns.user_id) is missing in 1 of 2 files, such as "
    assert f"{said}{tmp_path}/in/b.{file_format}: their rows count as rows without a value" in capsys.readouterr().err

    later = [{"u": "3", "i": "a", "kind": "view"}]
    events, counts, _ = outcome(grow(spark, f"{lake}2", tmp_path / "in2", file_format, later))
    assert ("3", "a", "event") in events
    assert "column 'k' (source.columns.event_type) is missing in 1 of 2 files" in capsys.readouterr().err


def test_a_retyped_column_is_text_in_lines_and_refused_in_parquet(spark, lake, tmp_path):
    later = [{"u": 3, "i": "a", "k": "view"}, {"u": 4.5, "i": "a", "k": "view"}]
    events, _, _ = outcome(grow(spark, lake, tmp_path / "lines", "jsonl", later))
    assert [user for user, _, _ in events] == ["1", "2", "3", "4.5"]
    message = (
        r"^source\.path \S*/in: files disagree about column 'u': string in \S*/a\.parquet, bigint in \S*/b\.parquet; "
        r"write it with one type, or read the files as separate sources$"
    )
    with pytest.raises(SourceError, match=message):
        grow(spark, lake, tmp_path / "in", "parquet", later[:1])


@pytest.mark.parametrize("later", [FIRST[0] | {"shop": "x"}, {"user": "3", "i": "a", "k": "view"}], ids=["add", "name"])
def test_another_csv_header_is_refused_and_the_earlier_version_stays(spark, lake, tmp_path, later):
    folder = tmp_path / "in"
    with pytest.raises(SourceError, match=r"files disagree about their columns: .*/b\.csv; give them one header"):
        grow(spark, lake, folder, "csv", [later])
    (folder / "b.csv").unlink()
    section = {"kind": "files", "path": str(folder), "format": "csv", "columns": COLUMNS, "max_bad_ratio": 1.0}
    assert outcome(make_run(lake, section))[1]["rows_in"] == 2


def test_a_delta_source_whose_columns_change(spark, lake, tmp_path, capsys):
    path = str(tmp_path / "foreign")

    def step(rows, **how):
        write_deltalake(path, pa.Table.from_pylist([row | TIME for row in rows]), **how)
        run = make_run(lake, {"kind": "delta", "path": path, "columns": COLUMNS})
        ingest(spark, run)
        return outcome(run)

    step(FIRST)
    events, counts, _ = step([{"u": "3", "i": "a", "k": "view", "shop": "x"}], mode="append", schema_mode="merge")
    assert "in full: version 1 of the source changes its columns or settings" in capsys.readouterr().err
    assert (len(events), counts["rows_in"]) == (3, 3)
    events, _, _ = step([{"u": "4", "i": "a", "k": "view", "shop": "x"}], mode="append")
    assert "went on from version" in capsys.readouterr().err
    assert len(events) == 4
    events, _, _ = step([{"u": 1, "i": 7, "k": "view"}], mode="overwrite", schema_mode="overwrite")
    assert events == [("1", "7", "view")]
    with pytest.raises(SourceError, match=r"source\.columns\.user_id: no column 'u' \(columns there: user, i, k, t\)"):
        step([{"user": "1", "i": "7", "k": "view"}], mode="overwrite", schema_mode="overwrite")
