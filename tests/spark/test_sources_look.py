"""The look and Spark agree: the same words for what is wrong, and nothing refused that Spark reads."""

import bz2
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from recspark.errors import SourceError
from recspark.sources.features import read_item_features
from recspark.sources.job import ingest, read_rows
from recspark.sources.look import look_at_source
from tests.helpers.sources import has_tables, make_run, write_lines

pytestmark = pytest.mark.spark

COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t"}
USER = {"sessions": {"group_by": "user"}}


def files(path, file_format="csv", **more):
    return {"kind": "files", "path": str(path), "format": file_format, "columns": COLUMNS} | more


def broken_sources(folder):
    """name -> source section."""
    good = write_lines(folder / "e.csv", "u,i,t", "1,a,2020-01-01")
    pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": [1]}), folder / "n.parquet")
    write_deltalake(str(folder / "d"), pa.table({"u": ["1"], "i": ["a"], "t": [1.5]}))
    rule = {"name": "bots", "column": "kind", "one_of": ["bot"]}
    return {
        "column": files(write_lines(folder / "w.csv", "user,i,t", "1,a,2020-01-01")),
        "rule": files(good, rules=[rule]),
        "no line": files(write_lines(folder / "0.csv")),
        "no row": files(write_lines(folder / "h.csv", "u,i,t")),
        "twice": files(write_lines(folder / "2.csv", "u,i,u", "1,2,3")),
        "parquet as csv": files(folder / "n.parquet"),
        "json as csv": files(write_lines(folder / "j.csv", json.dumps({"u": 1}))),
        "csv as json": files(good, "jsonl"),
        "json key": files(write_lines(folder / "k.jsonl", json.dumps({"u": 1, "i": 2})), "jsonl"),
        "delta column": {"kind": "delta", "path": str(folder / "d"), "columns": COLUMNS | {"weight": "w"}},
        "edges": {"kind": "edges", "path": str(good), "format": "csv", "directed": False, "weight_column": "w"},
        "attribute rule": {"kind": "synthetic", "rules": [rule]},
    }


def test_the_look_uses_the_words_of_ingest(spark, lake, tmp_path):
    for name, source in broken_sources(tmp_path).items():
        run = make_run(lake, source, **({} if source["kind"] == "edges" else USER))
        with pytest.raises(SourceError) as before:
            look_at_source(run.config)
        with pytest.raises(SourceError) as after:
            ingest(spark, run)
        assert str(before.value) == str(after.value), name
    assert not has_tables(lake)


def test_numbers_as_times_are_refused_by_both(spark, lake, tmp_path):
    broken_sources(tmp_path)
    for source in (
        files(tmp_path / "n.parquet", "parquet"),
        {"kind": "delta", "path": f"{tmp_path}/d", "columns": COLUMNS},
    ):
        run = make_run(lake, source)
        for check in (lambda run: look_at_source(run.config), lambda run: ingest(spark, run)):
            with pytest.raises(
                SourceError, match=r"column 't' holds numbers \(\w+\), but source\.timestamp_format is None"
            ):
                check(run)


def test_the_look_uses_the_words_of_the_features(spark, lake, tmp_path):
    films = write_lines(tmp_path / "films.csv", "movieId,title", "1,a")
    for feature in (
        {"path": str(films), "key": "movie", "column": "genres"},
        {"path": str(write_lines(tmp_path / "0.csv")), "key": "id", "column": "a"},
        {"path": "synthetic", "key": "item", "column": "price"},
    ):
        run = make_run(lake, {"kind": "synthetic"}, features=[{"name": "genre"} | feature])
        with pytest.raises(SourceError) as before:
            look_at_source(run.config)
        with pytest.raises(SourceError) as after:
            read_item_features(spark, run)
        assert str(before.value) == str(after.value)


def test_what_spark_reads_is_not_refused(spark, lake, tmp_path):
    rows = ["1,a,2020-01-01", "2,b,2020-01-02"]
    mixed = tmp_path / "mixed"
    write_lines(mixed / "a.csv", "u,i,t", *rows)
    write_lines(mixed / "b.csv.gz", "U,I,T", *rows)
    write_lines(mixed / "empty.csv")
    write_lines(mixed / "header.csv", "", "u,i,t")
    (mixed / "c.csv.bz2").write_bytes(bz2.compress(b"u,i,t\r\n1,a,2020-01-01\r\n"))
    (mixed / "mac.csv").write_bytes(b"\xef\xbb\xbfu,i,t\r3,a,2020-01-01\r")
    days = tmp_path / "days"
    write_lines(days / "t=2020-01-01" / "a.jsonl", "{'u': 1, 'i': 2}", "junk", '{"i": 3, "u": [4]}')
    tables = tmp_path / "tables"
    tables.mkdir()
    pq.write_table(pa.table({"u": ["1"], "i": ["a"], "t": ["2020-01-01"], "x": [1]}), tables / "a.parquet")
    pq.write_table(pa.table({"u": ["1"], "i": ["a"]}), tables / "b.parquet", use_deprecated_int96_timestamps=True)
    (tables / "c.parquet").write_bytes(b"")
    for source, expected in ((files(mixed), 6), (files(days, "jsonl"), 3), (files(tables, "parquet"), 2)):
        run = make_run(lake, source)
        look_at_source(run.config)
        assert read_rows(spark, run).count() == expected
        assert read_rows(spark, run).collect()
