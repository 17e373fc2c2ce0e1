"""Sources as they come: odd values, odd times, damaged and vanished files. All rows counted, none lost in silence."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from recspark.errors import SourceError
from recspark.sources.job import ingest, read_rows
from tests.helpers.sources import has_tables, make_run, map_table, rows_and_record, write_lines
from tests.spark.test_sources_mapping import by_user

pytestmark = pytest.mark.spark

COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t", "weight": "w", "event_type": "k"}
BROKEN = b"caf\xe9"  # Latin-1, no UTF-8
GOOD = {"u": b"1", "i": b"a", "t": b"1577934245", "w": b"2.5", "k": b"view"}
ODD_ROWS = [
    (GOOD, None),
    (GOOD | {"u": b"01"}, None),
    (GOOD | {"u": b" 1"}, None),
    (GOOD | {"i": b"x" * 1024}, None),
    (GOOD | {"k": None}, None),
    (GOOD | {"k": BROKEN}, None),
    (GOOD | {"w": b"0"}, None),
    (GOOD | {"u": None}, "missing_user_id"),
    (GOOD | {"u": b""}, "blank_user_id"),
    (GOOD | {"i": b" \t "}, "blank_item_id"),
    (GOOD | {"i": b"y" * 100_000}, "long_item_id"),
    (GOOD | {"u": b"a\0b"}, "invalid_user_id"),
    (GOOD | {"i": BROKEN}, "invalid_item_id"),
    (GOOD | {"t": b"0"}, "impossible_time"),
    (GOOD | {"t": b"-1"}, "impossible_time"),
    (GOOD | {"t": b"250000000000"}, "impossible_time"),  # the year 9892
    (GOOD | {"t": b"1577934245000"}, "unreadable_time"),  # milliseconds
    (GOOD | {"t": b"9" * 40}, "unreadable_time"),
    (GOOD | {"t": b"1e400"}, "unreadable_time"),
    (GOOD | {"w": b"NaN"}, "unreadable_weight"),
    (GOOD | {"w": b"Infinity"}, "unreadable_weight"),
    (GOOD | {"w": b"-0.001"}, "negative_weight"),
    (GOOD | {"w": None}, "missing_weight"),
]


def csv_bytes(rows):
    def show(value):
        return b'""' if value == b"" else value or b""

    return b"u,i,t,w,k\n" + b"".join(b",".join(map(show, row.values())) + b"\n" for row in rows) + b"cut " + BROKEN


def json_bytes(rows):
    def show(value):
        text = b"null" if value is None else b'"' + value.replace(b"\0", b"\\u0000").replace(b"\t", b"\\t") + b'"'
        return text

    lines = [b"{" + b", ".join(b'"%s": %s' % (n.encode(), show(v)) for n, v in row.items()) + b"}" for row in rows]
    return b"\n".join([*lines, b'{"u": "cut ' + BROKEN])


def write_source(folder, file_format, rows):
    """The rows in one file, and where the format has lines one more that breaks off in the middle of a letter."""
    folder.mkdir(exist_ok=True)
    path = folder / f"part.{file_format}"
    if file_format == "parquet":
        arrays = {n: pa.array([row[n] for row, _ in rows], pa.binary()).view(pa.string()) for n in GOOD}
        pq.write_table(pa.table(arrays), path)
        return rows
    path.write_bytes((csv_bytes if file_format == "csv" else json_bytes)([row for row, _ in rows]))
    if file_format == "csv":  # which knows no difference between an empty text and none
        rows = [(row, "missing_user_id" if reason == "blank_user_id" else reason) for row, reason in rows]
    return [*rows, (None, "unparsable_line")]


def count(reasons):
    return {reason: reasons.count(reason) for reason in sorted({r for r in reasons if r})}


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_odd_values_are_kept_as_they_are_or_quarantined(spark, lake, tmp_path, file_format):
    rows = write_source(tmp_path / "in", file_format, ODD_ROWS)
    source = {"kind": "files", "path": str(tmp_path / "in"), "format": file_format, "columns": COLUMNS}
    run = make_run(lake, source | {"timestamp_format": "epoch_seconds", "max_bad_ratio": 1.0})
    ingest(spark, run)
    events, record = rows_and_record(run, "events")
    reasons = [reason for _, reason in rows]
    assert record.counts["quarantined"] == count(reasons)
    assert (record.counts["rows_in"], record.counts["kept"]) == (len(rows), reasons.count(None))
    found = sorted((e["user_id"], e["item_id"], e["event_type"], e["weight"]) for e in events)
    assert found == sorted(
        (r["u"].decode(), r["i"].decode(), (r["k"] or b"event").decode(errors="replace"), float(r["w"]))
        for r, reason in rows
        if reason is None
    )
    quarantine, _ = rows_and_record(run, "quarantine")
    assert count([q["reason"] for q in quarantine]) == count(reasons)
    assert max(len(q["raw"]) for q in quarantine) > 100_000
    assert sum("caf\ufffd" in q["raw"] for q in quarantine) == (1 if file_format == "parquet" else 2)


CLOCKS = {
    "Europe/London": {
        "2020-03-29 00:59:59": "2020-03-29T00:59:59",
        "2020-03-29 01:30:00": "2020-03-29T01:30:00",  # no clock showed it: read as if the hour had not been left out
        "2020-03-29 02:00:00": "2020-03-29T01:00:00",
        "2020-10-25 00:59:59": "2020-10-24T23:59:59",
        "2020-10-25 01:30:00": "2020-10-25T00:30:00",  # shown twice: the first pass
        "2020-10-25 02:00:00": "2020-10-25T02:00:00",
        "2020-10-25 01:30:00+00:00": "2020-10-25T01:30:00",  # which is how to name the second
    },
    "America/New_York": {
        "2021-03-14 02:30:00": "2021-03-14T07:30:00",
        "2021-11-07 01:30:00": "2021-11-07T05:30:00",
        "2021-11-07 01:30:00-05:00": "2021-11-07T06:30:00",
    },
}


@pytest.mark.parametrize("wanted", [None, "yyyy-MM-dd HH:mm:ss"], ids=["iso", "pattern"])
def test_clocks_that_are_changed_lose_no_event(spark, wanted):
    for zone, cases in CLOCKS.items():
        cases = {text: utc for text, utc in cases.items() if wanted is None or len(text) == 19}
        ids = [str(n) for n in range(len(cases))]
        table = pa.table({"u": ids, "i": ids, "t": list(cases)})
        columns = {"user_id": "u", "item_id": "i", "ts": "t"}
        found = by_user(map_table(spark, table, columns=columns, timezone=zone, timestamp_format=wanted))
        assert {cases_text: found[n]["ts"] for n, cases_text in zip(ids, cases, strict=True)} == cases
        assert not any(row["reason"] for row in found.values())


def plain_source(path, file_format="csv", **more):
    columns = {"user_id": "u", "item_id": "i", "ts": "t"}
    return {"kind": "files", "path": str(path), "format": file_format, "columns": columns} | more


def test_times_far_off_come_in_with_an_increment_too(spark, lake, tmp_path):
    """Years that Python has no dates for are counted like any other row that cannot be an event."""
    folder = tmp_path / "in"
    rules = [{"name": "twice", "duplicates": True}]
    source = plain_source(folder, max_bad_ratio=1.0, rules=rules)
    write_lines(folder / "a.csv", "u,i,t", "1,a,2020-01-01", "2,b,2020-01-01")
    ingest(spark, make_run(lake, source))
    odd = [f"3,a,{t}" for t in ("20000-01-01", "0000-12-31", "9999-12-31", "1969-12-31", "soon")]
    write_lines(folder / "b.csv", "u,i,t", *odd, "1,a,2020-01-01", "2,a,2020-01-03")
    run = make_run(lake, source)
    ingest(spark, run)
    events, record = rows_and_record(run, "events")
    assert record.facts["built_from"]["rows_read"] == 7
    assert {n: record.counts[n] for n in ("rows_in", "kept", "dropped", "quarantined")} == {
        "rows_in": 9, "kept": 3, "dropped": {"twice": 1}, "quarantined": {"impossible_time": 4, "unreadable_time": 1},
    }  # fmt: skip
    assert sorted((e["user_id"], str(e["day"])) for e in events) == [
        ("1", "2020-01-01"), ("2", "2020-01-01"), ("2", "2020-01-03"),
    ]  # fmt: skip


def test_seconds_read_as_milliseconds_are_told_so(spark, lake, tmp_path):
    path = write_lines(tmp_path / "a.csv", "u,i,t", "1,a,1577934245", "2,a,1577934246")
    message = (
        r"2 of 2 rows .*Times in column 't' such as '1577934245', '1577934246' are out of bounds \(source\.earliest "
        r"1990-01-01 to source\.latest 2100-01-01\): set source\.timestamp_format to epoch_seconds, or move"
    )
    with pytest.raises(SourceError, match=message):
        ingest(spark, make_run(lake, plain_source(path, timestamp_format="epoch_millis")))
    assert not has_tables(lake)


def read_or_refuse(spark, lake, source):
    """The rows' users; None where ingest names the file, and nothing was written."""
    run = make_run(lake, source)
    try:
        ingest(spark, run)
    except SourceError as error:
        if "bad." not in str(error) or has_tables(lake):
            raise
        return None
    return sorted(e["user_id"] for e in rows_and_record(run, "events")[0])


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_a_flipped_byte_is_named_or_changes_nothing(spark, tmp_path):
    """Of a gzip file, and of a Parquet file that carries checksums: at several places, the last in the data."""
    users = [f"{n * 7919 % 10007:05d}" for n in range(3000)]
    lines = "u,i,t\n" + "".join(f"{u},a,2020-01-01\n" for u in users)
    table = pa.table({"u": users, "i": ["a"] * 3000, "t": ["2020-01-01"] * 3000})
    found = {}
    for file_format, name in (("csv", "bad.csv.gz"), ("parquet", "bad.parquet")):
        for share in (0.0, 0.3, 0.7, 0.9999):
            folder = tmp_path / f"{file_format}{share}"
            folder.mkdir()
            if file_format == "csv":
                (folder / name).write_bytes(gzip.compress(lines.encode()))
            else:
                pq.write_table(table, folder / name, compression="none", write_page_checksum=True)
            flip(folder / name, int(share * (folder / name).stat().st_size))
            source = plain_source(folder, file_format, incremental="off")
            found[file_format, share] = read_or_refuse(spark, str(folder / "lake"), source)
    assert all(kept in (None, sorted(users)) for kept in found.values())
    assert found["csv", 0.3] is found["csv", 0.7] is found["parquet", 0.3] is None


def test_files_cut_short_or_gone_are_named(spark, lake, tmp_path):
    rows = [json.dumps({"u": str(n), "i": str(n * n), "t": "2020-01-01"}) for n in range(20_000)]
    cut = write_lines(tmp_path / "cut" / "bad.jsonl.gz", *rows)
    cut.write_bytes(cut.read_bytes()[:-3000])
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": ["2020-01-01"]}), tmp_path / "p" / "a.parquet")
    (tmp_path / "p" / "bad.parquet").write_bytes((tmp_path / "p" / "a.parquet").read_bytes()[:-9])
    for source in (plain_source(tmp_path / "cut", "jsonl"), plain_source(tmp_path / "p", "parquet")):
        with pytest.raises(
            SourceError, match=r"bad\.\S+ cannot be read \(.*\): it is damaged or cut short; replace or"
        ):
            ingest(spark, make_run(lake, source))

    folder = tmp_path / "gone"
    for name in ("a", "bad"):
        write_lines(folder / f"{name}.csv", "u,i,t", "1,a,2020-01-01")
    run = make_run(lake, plain_source(folder))
    rows = read_rows(spark, run)
    (folder / "bad.csv").unlink()
    for read in (lambda: ingest(spark, run), lambda: _collect(rows, run)):
        with pytest.raises(SourceError, match=r"bad\.csv is gone since it was listed; restore it, or run again"):
            read()
    path = str(tmp_path / "foreign")
    write_deltalake(path, pa.table({"u": ["1"], "i": ["a"], "t": ["2020-01-01"]}))
    for uri in DeltaTable(path).file_uris():
        Path(uri.removeprefix("file://")).unlink()
    source = {"kind": "delta", "path": path, "columns": {"user_id": "u", "item_id": "i", "ts": "t"}}
    with pytest.raises(SourceError, match=r"source\.path \S*foreign: \S+\.parquet is gone since it was listed"):
        ingest(spark, make_run(lake, source))
    assert not has_tables(lake)


def _collect(rows, run):
    from recspark.sources.rows import reading

    with reading("there", run.lake):
        rows.collect()
