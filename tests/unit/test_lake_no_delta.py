"""A source or feature called Delta that is none: the message says what lies there and what to set instead."""

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import TableNotFoundError

from recspark.errors import SourceError
from recspark.lake import source_state
from recspark.lake.source_state import find_source_state, open_delta

NO_LOG = "no Delta table there: the folder has no _delta_log"


def message_of(path: object) -> str:
    with pytest.raises(SourceError) as caught:
        find_source_state("delta", str(path), None)
    head, _, message = str(caught.value).partition(f"{path}: ")
    assert head == "source.path "
    assert "damaged" not in message
    return message


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


@pytest.mark.parametrize(
    ("names", "file_format"),
    [
        (["a.parquet", "b.snappy.parquet", "notes.txt", "c.csv"], "parquet"),
        (["day=1/a.csv.gz"], "csv"),
        (["a.TSV"], "csv"),
        (["a.json", "b.jsonl.zst"], "jsonl"),
    ],
)
def test_a_folder_of_files_is_told_how_to_be_read(tmp_path, names, file_format):
    fill(tmp_path / "in", *names)
    advice = f"{file_format} files lie there: to read them set source.kind to files and source.format to {file_format}"
    assert message_of(tmp_path / "in") == f"{NO_LOG}; {advice}"
    assert message_of(f"file://{tmp_path}/in") == f"{NO_LOG}; {advice}"


@pytest.mark.parametrize("names", [["sub/"], ["README", "a.docx"]])
def test_a_folder_of_something_else(tmp_path, names):
    fill(tmp_path / "in", *(n for n in names if not n.endswith("/")))
    (tmp_path / "in").mkdir(exist_ok=True)
    assert message_of(tmp_path / "in") == f"{NO_LOG}; check the path"


def test_a_path_that_is_not_there(tmp_path):
    assert message_of(tmp_path / "none") == "no Delta table there: no such folder; check the path"


def test_a_file(tmp_path):
    fill(tmp_path, "a.csv")
    assert message_of(tmp_path / "a.csv") == (
        "no Delta table there: it is a file, a table is a folder with _delta_log; csv files lie there: to read them "
        "set source.kind to files and source.format to csv"
    )


def test_a_log_without_a_commit(tmp_path):
    fill(tmp_path / "t", "_delta_log/.tmp", "a.parquet")
    assert message_of(tmp_path / "t") == "no Delta table there: its _delta_log holds no commit; restore it"


def test_files_of_a_delta_table_are_never_offered_as_they_lie(tmp_path):
    """Read as Parquet, rows that the table has removed would come back."""
    write_deltalake(str(tmp_path / "all" / "t"), pa.table({"a": [1]}))
    (file,) = (tmp_path / "all" / "t").glob("*.parquet")
    assert message_of(tmp_path / "all") == f"{NO_LOG}; Delta tables below it: {tmp_path}/all/t"
    assert message_of(file).endswith(f"; it lies in the Delta table {tmp_path}/all/t: give that path")


def test_a_feature_is_told_its_own_key(tmp_path):
    fill(tmp_path / "in", "a.parquet")
    message = rf"features\.genre\.path \S+: {NO_LOG}; .* to read them set features\.genre\.format to parquet$"
    with pytest.raises(SourceError, match=message):
        find_source_state("synthetic", None, None, [("genre", str(tmp_path / "in"), "delta")])


def test_a_store_is_not_looked_into(monkeypatch):
    def refuse(uri):
        raise TableNotFoundError("No files in log segment")

    monkeypatch.setattr(source_state, "DeltaTable", refuse)
    with pytest.raises(SourceError, match=r"^source\.path s3a://bucket/shop: no Delta table there \(no _delta_log\)$"):
        open_delta("s3a://bucket/shop", None)
