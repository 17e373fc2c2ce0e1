"""CSV, Parquet, JSON lines and Delta into one shape; a bad line comes along, a damaged file stops the run by name."""

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from recspark.errors import SourceError
from recspark.lake.source_state import list_files
from recspark.sources.delta import read_delta
from recspark.sources.files import read_files
from recspark.sources.rows import reading
from tests.helpers.sources import write_lines

pytestmark = pytest.mark.spark


def collect(rows):
    with reading("here"):
        return rows.toArrow().to_pylist()


def fail(spark, path, file_format="csv"):
    """As the stage meets it: not through Arrow."""
    with reading("here"):
        read_files(spark, str(path), file_format).collect()


def read(spark, path, file_format="csv", separator=","):
    with reading("here"):
        return collect(read_files(spark, str(path), file_format, separator))


def test_csv_of_many_files_with_quotes_and_bad_lines(spark, tmp_path):
    folder = tmp_path / "many files"
    write_lines(folder / "a.csv", "user;item;note", "1;01;plain", '2;x;"a ""quoted""; one"', "3;y", "4;z;1;2", ";;")
    write_lines(folder / "deeper" / "b.csv.gz", "user;item;note", " 5 ;\u00e4;")
    write_lines(folder / "_hidden.csv", "other")
    write_lines(folder / "empty.csv")
    found = read(spark, folder, separator=";")
    good = sorted(tuple(r["row"].values()) for r in found if r["bad_line"] is None and r["row"]["user"])
    assert good == [(" 5 ", "\u00e4", None), ("1", "01", "plain"), ("2", "x", 'a "quoted"; one')]
    assert sorted(r["bad_line"] for r in found if r["bad_line"]) == ["3;y", "4;z;1;2"]
    assert len(found) == 6
    by_file = {r["source_file"].rsplit("/", 1)[1] for r in found}
    assert by_file == {"a.csv", "b.csv.gz"}


def test_a_nameless_csv_column_gets_a_name(spark, tmp_path):
    found = read(spark, write_lines(tmp_path / "index.csv", ",user,item", "0,1,2"))
    assert found[0]["row"] == {"_c0": "0", "user": "1", "item": "2"}


def test_csv_headers_have_to_agree(spark, tmp_path):
    write_lines(tmp_path / "a.csv", "user,item", "1,2")
    write_lines(tmp_path / "b.csv", "item,user", "2,1")
    with pytest.raises(
        SourceError, match=r"^here: files disagree about their columns: Header: item, user.*b\.csv; give"
    ):
        read(spark, tmp_path)


@pytest.mark.parametrize("other", ["b.csv", "b.csv.gz"])
def test_headers_with_a_nameless_column_have_to_agree(spark, tmp_path, other):
    write_lines(tmp_path / "a.csv", ",user,item", "0,1,2")
    write_lines(tmp_path / "c.csv")
    write_lines(tmp_path / other, ",item,user", "0,2,1")
    message = rf"^source\.path \S*: files disagree about their columns: \['', 'user', 'item'\] in \S*/a\.csv, \['', 'item', 'user'\] in \S*/{other}; give them one header"  # noqa: E501
    with pytest.raises(SourceError, match=message):
        read(spark, tmp_path)
    write_lines(tmp_path / other, ",user,item", "1,3,4")
    assert sorted(r["row"]["user"] for r in read(spark, tmp_path)) == ["1", "3"]


@pytest.mark.parametrize("pattern", ["*.csv", "*", "day*", "day*/", "*/*.csv", "day?/*", "day[12]/deep/*"])
def test_a_glob_reads_what_the_fingerprint_names(spark, tmp_path, pattern):
    names = ("a.csv", "b[1].csv", "day1/c.csv", "day2/d.csv", "day2/deep/e.csv", "_tmp/f.csv", "day1/_g.csv", "x/h.txt")
    for name in names:
        write_lines(tmp_path / name, "user,item", f"{name.rsplit('/', 1)[-1]},1")
    path = f"{tmp_path}/{pattern}"
    expected = sorted(name.rsplit("/", 1)[-1] for name, _, _ in list_files(path))
    assert sorted(r["row"]["user"] for r in read(spark, path)) == expected


def test_csv_without_a_usable_header(spark, tmp_path):
    with pytest.raises(SourceError, match="header names user more than once"):
        fail(spark, write_lines(tmp_path / "twice.csv", "user,item,user"))
    with pytest.raises(SourceError, match=r"nothing\.csv: the source is empty: no file there has a line"):
        fail(spark, write_lines(tmp_path / "nothing.csv"))


def test_a_truncated_gzip_file_is_named(spark, tmp_path):
    write_lines(tmp_path / "a.csv.gz", "user,item", "1,2")
    cut = write_lines(tmp_path / "b.csv.gz", "user,item", *(f"{n},{n * n}" for n in range(50_000)))
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(SourceError, match=r"^here: file:\S*b\.csv\.gz cannot be read .*damaged or cut short; replace"):
        fail(spark, tmp_path)
    cut.write_bytes(b"\x1f\x8bno gzip at all")
    with pytest.raises(SourceError, match=r"b\.csv\.gz.* cannot be read .*damaged or cut short; replace"):
        fail(spark, cut)


def test_jsonl_has_all_keys_and_its_bad_lines(spark, tmp_path):
    lines = ['{"user": 7, "item": "01"}', '{"user": "u", "extra": 1.50}', '{"user": "cut', "[]no", ""]
    found = read(spark, write_lines(tmp_path / "a.jsonl.gz", *lines), "jsonl")
    good = sorted((r["row"]["user"], r["row"]["item"], r["row"]["extra"]) for r in found if r["bad_line"] is None)
    assert good == [("7", "01", None), ("u", None, "1.5")]
    assert sorted(r["bad_line"] for r in found if r["bad_line"]) == ["[]no", '{"user": "cut']
    with pytest.raises(SourceError, match=r"no line there is a JSON object; check source\.format"):
        fail(spark, write_lines(tmp_path / "b.jsonl", "user,item", "1,2"), "jsonl")


def test_a_column_that_stands_there_twice_is_told(spark, tmp_path):
    lines = '{"user": "u", "item": "i"}', '{"User": "v", "item": "j"}'
    with pytest.raises(SourceError, match=r"a column 'user' stands there twice, capitals aside"):
        fail(spark, write_lines(tmp_path / "a.jsonl", *lines), "jsonl")
    with pytest.raises(SourceError, match=r"a column 'user' stands there twice"):
        fail(spark, write_lines(tmp_path / "b.jsonl", '{"user": "u", "user": "v"}', '{"user": "w"}'), "jsonl")
    with pytest.raises(SourceError, match=r"a column 'user' stands there twice"):
        fail(spark, write_lines(tmp_path / "c.csv", "user,item,User", "u,i,v"), "csv")


def test_parquet_keeps_types_and_a_damaged_file_is_named(spark, tmp_path):
    moment = dt.datetime(2020, 7, 2, 3)
    table = pa.table({"user": [1, None], "t": [moment, moment]})
    (tmp_path / "t").mkdir()
    pq.write_table(table, tmp_path / "t" / "a.parquet", coerce_timestamps="us")
    rows = read_files(spark, str(tmp_path / "t"), "parquet")
    assert rows.schema["row"].dataType.simpleString() == "struct<user:bigint,t:timestamp_ntz>"
    assert [r["row"]["user"] for r in collect(rows)] == [1, None]
    damaged = tmp_path / "t" / "b.parquet"
    damaged.write_bytes((tmp_path / "t" / "a.parquet").read_bytes()[:-50])
    with pytest.raises(SourceError, match=r"^here: file:\S*b\.parquet cannot be read .*damaged or cut short; replace"):
        fail(spark, tmp_path / "t", "parquet")


def test_nanosecond_parquet_says_what_to_do(spark, tmp_path):
    pq.write_table(pa.table({"t": pa.array([1], pa.timestamp("ns"))}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="Spark reads no nanosecond times; write it with microseconds"):
        fail(spark, tmp_path, "parquet")


def test_folders_named_by_a_column_bring_that_column_as_text(spark, tmp_path):
    for day in ("01", "02"):
        write_lines(tmp_path / f"day={day}" / "a.jsonl", json.dumps({"user": day}))
    found = read(spark, tmp_path, "jsonl")
    assert sorted((r["row"]["user"], r["row"]["day"]) for r in found) == [("01", "01"), ("02", "02")]


def test_delta_is_read_at_its_version(spark, tmp_path):
    for version in range(2):
        write_deltalake(str(tmp_path), pa.table({"user": [f"v{version}"]}), mode="overwrite")
    for version in range(2):
        found = collect(read_delta(spark, str(tmp_path), version))
        assert [r["row"]["user"] for r in found] == [f"v{version}"]
        assert found[0]["source_file"].endswith(".parquet")
    with pytest.raises(SourceError, match=r"version 7 cannot be read .*set source\.version to one that is kept"):
        read_delta(spark, str(tmp_path), 7)
