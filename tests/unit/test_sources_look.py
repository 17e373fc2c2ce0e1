"""The look before any JVM: every problem named at once, and nothing refused that Spark reads."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from recspark.config import RunConfig
from recspark.errors import SourceError
from recspark.lake import source_state
from recspark.sources import file_columns
from recspark.sources.look import look_at_source
from tests.helpers.sources import write_lines

COLUMNS = {"user_id": "u", "item_id": "i", "ts": "t"}
PACKED = gzip.compress(b"u,i,t\n1,2,3\n", mtime=0)  # a time in it would be in the names of tests
GOOD = {"u": ["1"], "i": ["a"], "t": ["2020-01-01"]}


def look(path, file_format="csv", features=(), columns=COLUMNS, **source) -> None:
    kind = {"kind": "files", "path": str(path), "format": file_format, "columns": columns} | source
    split = {"kind": "leave_last_out"}
    look_at_source(RunConfig.model_validate({"source": kind, "split": split, "features": features}))


def problem(path, file_format="csv", **more) -> str:
    with pytest.raises(SourceError) as caught:
        look(path, file_format, **more)
    return str(caught.value)


def write_parquet(path: Path, table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


def test_a_misspelt_column_is_named_with_the_near_one(tmp_path):
    path = write_lines(tmp_path / "e.csv.gz", "userId,i,t", "1,a,2020-01-01")
    columns = COLUMNS | {"user_id": "userid"}
    expected = (
        f"source.path {path}: source.columns.user_id: no column 'userid'; did you mean 'userId'? "
        "(columns there: userId, i, t)"
    )
    assert problem(path, columns=columns) == expected
    write_lines(tmp_path / "e.csv.gz", "u,i,t", "1,a,2020-01-01")
    look(path)


def test_all_problems_come_at_once(tmp_path):
    events = write_lines(tmp_path / "e.csv", "u,i,t", "1,a,2020-01-01")
    films = write_lines(tmp_path / "films.csv", "movieId,title", "1,a")
    features = [
        {"name": "genre", "path": str(films), "key": "movie", "column": "genres"},
        {"name": "age", "path": str(tmp_path / "none"), "key": "id", "column": "age", "of": "user"},
        {"name": "brand", "path": "synthetic", "key": "item_id", "column": "brand"},
    ]
    rules = [{"name": "bots", "column": "kind", "one_of": ["bot"]}]
    columns = COLUMNS | {"split": "part"}
    assert problem(events, features=features, rules=rules, columns=columns).splitlines() == [
        "the source has 4 problems:",
        f"  source.path {events}: source.columns.split: no column 'part'; source.rules (bots): no column 'kind' "
        "(columns there: u, i, t)",
        f"  features (genre), path {films}: key: no column 'movie'; did you mean 'movieId'?; column of genre: no "
        "column 'genres' (columns there: movieId, title)",
        "  features (brand): path synthetic holds the generator's item attributes (item_id, category, brand, price, "
        "name); it goes with source.kind synthetic and `of: item`",
        f"  features.age.path {tmp_path}/none: no such file or folder",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", b"", "the source is empty: no file there has a line; give one with rows"),
        ("e.csv", b"\n\r\n", "the source is empty: no file there has a line; give one with rows"),
        ("e.csv", b"u,i,t\n\n", "the source is empty: 0 rows; check the path and the columns"),
        (
            "e.csv",
            PACKED,
            "{file} is gzip, which Spark unpacks only where the name ends in",
        ),
        ("e.csv.gz", b"u,i,t\n", "{file} cannot be read ("),
        ("e.csv.gz", PACKED[:12], "{file} cannot be read ("),
        ("e.csv", "u,i,t\n1,2,3\n".encode("utf-16"), "{file} is UTF-16; write it as UTF-8"),
        ("e.csv", b"PK\x03\x04 a spreadsheet", "{file} is a zip archive (or a spreadsheet), which Spark cannot read"),
        ("e.csv", b'{"u": 1, "i": 2, "t": 3}\n', "the first line of {file} is a JSON object, no CSV header; set its"),
        ("e.csv", b"u,i,u\n1,2,3\n", "the CSV header names u more than once; rename them"),
        ("e.csv", b"u;i;t\n1;2;3\n", "source.columns.user_id: no column 'u'"),
    ],
)
def test_a_csv_file_that_is_none(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    found = problem(tmp_path / name)
    assert found.startswith(f"source.path {tmp_path / name}: {message.format(file=tmp_path / name)}")


def test_parquet_under_another_name_is_told(tmp_path):
    path = write_parquet(tmp_path / "e.csv", GOOD)
    message = f"source.path {path}: {path} is Parquet; set its format to parquet"
    assert problem(path) == problem(path, "jsonl") == message
    look(path, "parquet")


def test_headers_have_to_agree_capitals_aside(tmp_path):
    write_lines(tmp_path / "a.csv", "u,i,t", "1,a,2020-01-01")
    write_lines(tmp_path / "b.csv", "U,i,t", "1,a,2020-01-01")
    write_lines(tmp_path / "c.csv")
    look(tmp_path)
    write_lines(tmp_path / "d.csv", "i,u,t", "a,1,2020-01-01")
    assert f"files disagree about their columns: ['U', 'i', 't'] in {tmp_path}/b.csv, ['i', 'u'" in problem(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no parquet", "{file} cannot be read (is not a Parquet file): it begins with b'no p'; check its format"),
        (b"PAR1 cut short", "{file} cannot be read (is not a Parquet file): it is damaged or cut short; replace or"),
        (b"", "the source is empty: no file there has a line; give one with rows"),
    ],
)  # fmt: skip
def test_a_parquet_file_that_is_none(tmp_path, content, message):
    (tmp_path / "e.parquet").write_bytes(content)
    found = problem(tmp_path / "e.parquet", "parquet")
    assert found.startswith(f"source.path {tmp_path}/e.parquet: {message.format(file=tmp_path / 'e.parquet')}")


def test_parquet_columns_rows_and_times(tmp_path):
    folder = tmp_path / "p"
    write_parquet(folder / "a.parquet", GOOD)
    (folder / "empty.parquet").write_bytes(b"")
    look(folder, "parquet")
    assert "source.columns.weight: no column 'x' (columns there: u, i, t)" in problem(
        folder, "parquet", columns=COLUMNS | {"weight": "x"}
    )
    write_parquet(folder / "b.parquet", {"t": pa.array([1], pa.timestamp("ns"))})
    assert "b.parquet cannot be read (Illegal Parquet type): Spark reads no nanosecond" in problem(folder, "parquet")
    numbers = write_parquet(tmp_path / "n.parquet", GOOD | {"t": [1]})
    assert problem(numbers, "parquet") == (
        "source.columns.ts: column 't' holds numbers (int64), but source.timestamp_format is None; set it to "
        "epoch_seconds or epoch_millis"
    )
    look(numbers, "parquet", timestamp_format="epoch_millis")
    empty = write_parquet(tmp_path / "0.parquet", {n: pa.array([], pa.string()) for n in GOOD})
    assert problem(empty, "parquet").endswith("the source is empty: 0 rows; check the path and the columns")


def test_a_damaged_later_parquet_file_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", GOOD)
    whole = write_parquet(tmp_path / "b.parquet", GOOD).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-50])
    assert f"{tmp_path}/b.parquet cannot be read (is not a Parquet file): it is damaged or cut" in problem(
        tmp_path, "parquet"
    )


def test_json_keys_may_come_on_any_line(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "e.jsonl", '{"u": 1, "i": 2}', "junk", '{"t": "2020-01-01"}')
    look(path, "jsonl")
    columns = COLUMNS | {"ts": "time"}
    assert "source.columns.ts: no column 'time' (columns there: i, t, u)" in problem(path, "jsonl", columns=columns)
    assert problem(write_lines(tmp_path / "a.jsonl", "u,i,t"), "jsonl").endswith(
        "no line there is a JSON object; check source.format"
    )
    monkeypatch.setattr(file_columns, "_JSON_BYTES", 20)  # what was not read may hold the key
    look(path, "jsonl", columns=columns)


def test_lines_that_only_spark_reads_are_left_to_it(tmp_path):
    look(write_lines(tmp_path / "quotes.jsonl", "{'u': 1}", json.dumps({"i": 2})), "jsonl")
    (tmp_path / "e.csv.snappy").write_bytes(b"\xff\x06 sNaPpY")
    look(tmp_path / "e.csv.snappy")
    (tmp_path / "e.parquet").write_bytes(b"PARE encrypted PARE")
    look(tmp_path / "e.parquet", "parquet")


def test_folders_name_columns_too(tmp_path):
    write_lines(tmp_path / "i=a" / "e.csv", "u,t", "1,2020-01-01")
    look(tmp_path)


def test_a_nameless_column_is_called_by_its_place(tmp_path):
    path = write_lines(tmp_path / "e.csv", ",u,i,t", "0,1,a,2020-01-01")
    look(path, columns=COLUMNS | {"event_id": "_c0"})


def test_lines_end_as_hadoop_cuts_them(tmp_path):
    (tmp_path / "mac.csv").write_bytes(b"\xef\xbb\xbfu,i,t\r1,a,2020-01-01\r")
    look(tmp_path / "mac.csv")


def test_delta_is_looked_at_at_its_version(tmp_path):
    path = str(tmp_path / "t")
    write_deltalake(path, pa.table(GOOD))
    write_deltalake(path, pa.table({"who": [1]}), mode="overwrite", schema_mode="overwrite")
    look(path, None, kind="delta", version=0)
    found = problem(path, None, kind="delta")
    assert found.endswith("source.columns.ts: no column 't' (columns there: who)")
    assert problem(path, None, kind="delta", version=9).startswith("source.version 9 of")


def test_an_edge_list_is_looked_at_by_its_own_columns(tmp_path):
    path = write_lines(tmp_path / "e.csv", "src,target", "a,b")
    config = {"source": {"kind": "edges", "path": str(path), "format": "csv", "directed": False, "weight_column": "w"}}
    with pytest.raises(SourceError, match=r"source\.dst_column: no column 'dst'; source\.weight_column: no column 'w'"):
        look_at_source(RunConfig.model_validate(config))


def test_rules_and_attributes_of_the_generator_are_looked_at():
    rule = {"name": "views", "column": "type", "one_of": ["view"]}
    feature = {"name": "price", "path": "synthetic", "key": "item_id", "column": "cost"}
    config = {
        "source": {"kind": "synthetic", "rules": [rule]}, "features": [feature],
        "split": {"kind": "time", "cut": "2026-02-01"},
    }  # fmt: skip
    with pytest.raises(SourceError) as caught:
        look_at_source(RunConfig.model_validate(config))
    assert "source.kind synthetic: source.rules (views): no column 'type'" in str(caught.value)
    assert "features (price), path synthetic: column of price: no column 'cost'" in str(caught.value)


def test_behind_a_network_a_few_files_are_opened(tmp_path, monkeypatch):
    """A file system that is not this machine's disk."""
    for number in range(10):
        write_lines(tmp_path / f"{number}.csv", "u,i,t", "1,a,2020-01-01")
    opened = []

    class Far(pafs.PyFileSystem):
        def open_input_stream(self, path, **how):
            opened.append(path)
            return super().open_input_stream(path, **how)

    far = Far(pafs.FSSpecHandler(pytest.importorskip("fsspec").filesystem("file")))
    monkeypatch.setattr(source_state, "open_filesystem", lambda uri: (far, uri))
    look(tmp_path)
    assert len(opened) == 4


def test_where_ids_are_hidden_no_message_quotes_a_first_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", "k" * 32)
    privacy = {"key": "${env:ID_KEY}"}
    row = "anna@example.org,a,2020-01-01"
    one = write_lines(tmp_path / "one" / "e.csv", row, row)
    found = problem(one, privacy=privacy)
    assert "source.columns.user_id: no column 'u'; " in found
    assert "among 3 columns, which are not named" in found
    write_lines(tmp_path / "two" / "a.csv", "u,i,t", row)
    write_lines(tmp_path / "two" / "b.csv", row, row)
    two = problem(tmp_path / "two", privacy=privacy)
    assert "files disagree about their columns: the first lines of " in two
    three = problem(write_lines(tmp_path / "three.csv", "anna@example.org,anna@example.org,t", row), privacy=privacy)
    assert "the CSV header names 1 of its columns more than once" in three
    user = {"name": "plan", "path": str(one), "key": "u", "column": "plan", "of": "user"}
    good = write_lines(tmp_path / "good.csv", "u,i,t", row)
    four = problem(good, features=[user], privacy=privacy)
    assert "features (plan)" in four
    for text in (found, two, three, four):
        assert "anna" not in text


def test_hidden_ids_cannot_stand_in_the_names_of_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("ID_KEY", "k" * 32)
    expected = (
        r"source.columns.user_id: column 'u' stands in the names of folders (u=...), which quarantine and records"
    )
    write_lines(tmp_path / "files" / "u=1" / "e.csv", "i,t", "a,2020-01-01")
    write_deltalake(str(tmp_path / "delta"), pa.table(GOOD), partition_by=["u"])
    for more in ({}, {"kind": "delta", "format": None}):
        path = tmp_path / more.get("kind", "files")
        file_format = more.pop("format", "csv")
        look(path, file_format, **more)
        assert problem(path, file_format, privacy={"key": "${env:ID_KEY}"}, **more).startswith(expected)
