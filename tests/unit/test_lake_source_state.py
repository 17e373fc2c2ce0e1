"""What a source holds: every change of content changes the fingerprint, and what cannot be read is named by its key."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recspark.errors import SourceError
from recspark.lake import source_state
from recspark.lake.source_state import find_source_state, list_files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def names_of(path: str) -> list[str]:
    return [name for name, _, _ in list_files(path)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["a.csv"]),
        ("in/*.csv", ["b.csv"]),
        ("*/*.csv", ["_p=1/d.csv", "in/b.csv"]),
        ("in/2020-*", ["2020-01/c.csv", "2020-01/deep/e.csv"]),
        ("in/2020-*/", ["2020-01/c.csv", "2020-01/deep/e.csv"]),
        ("in/2020-*/*.csv", ["2020-01/c.csv"]),
        ("in/[^b]*", ["2020-01/c.csv", "2020-01/deep/e.csv"]),
    ],
)
def test_a_glob_is_matched_segment_by_segment(tmp_path, pattern, expected):
    names = ("a.csv", "in/b.csv", "in/2020-01/c.csv", "in/2020-01/deep/e.csv", "_p=1/d.csv", "in/_tmp/x.csv", ".h.csv")
    touch(tmp_path, *names)
    assert names_of(f"{tmp_path}/{pattern}") == expected


def test_a_table_made_anew_is_another_source(tmp_path):
    path = str(tmp_path / "t")
    fingerprints = []
    for _ in range(2):
        shutil.rmtree(path, ignore_errors=True)
        write_deltalake(path, pa.table({"a": [1]}))
        fingerprints.append(find_source_state("delta", path, None)["fingerprint"])
    assert fingerprints[0] != fingerprints[1]


def test_the_newest_version_is_the_same_source_whether_it_is_named_or_not(tmp_path):
    path = str(tmp_path / "t")
    for mode in ("error", "append"):
        write_deltalake(path, pa.table({"a": [1]}), mode=mode)
    assert find_source_state("delta", path, None) == find_source_state("delta", path, 1)
    assert find_source_state("delta", path, 0)["fingerprint"] != find_source_state("delta", path, 1)["fingerprint"]


def test_features_count_with_their_content(tmp_path):
    films, brands = str(tmp_path / "films"), tmp_path / "brands.csv"
    touch(tmp_path, "brands.csv")
    write_deltalake(films, pa.table({"id": [1]}))
    features = [("genre", films, "delta"), ("brand", str(brands), "csv")]
    states = [find_source_state("synthetic", None, None, features)]
    assert states[0]["feature_versions"] == {films: 0}
    write_deltalake(films, pa.table({"id": [2]}), mode="append")
    states.append(find_source_state("synthetic", None, None, features))
    assert states[1]["feature_versions"] == {films: 1}
    brands.write_text("longer")
    states.append(find_source_state("synthetic", None, None, features))
    assert len({s["fingerprint"] for s in states}) == 3


@pytest.mark.parametrize(
    ("file_format", "message"),
    [("csv", "no such file or folder"), ("delta", "no Delta table there")],
)
def test_a_missing_feature_is_named_by_its_own_key(tmp_path, file_format, message):
    with pytest.raises(SourceError, match=rf"^features\.genre\.path \S*/none: {message}"):
        find_source_state("synthetic", None, None, [("genre", str(tmp_path / "none"), file_format)])


def test_a_damaged_delta_log_is_named(tmp_path):
    path = tmp_path / "t"
    write_deltalake(str(path), pa.table({"a": [1]}))
    (path / "_delta_log" / f"{0:020}.json").write_text('{"protocol": ')
    with pytest.raises(
        SourceError, match=r"^source\.path \S*/t: the log of the Delta table there is damaged \(.+\); r"
    ):
        find_source_state("delta", str(path), None)


@pytest.mark.parametrize("kind", ["files", "delta"])
@pytest.mark.parametrize("uri", ["hdfs://host/in", "ftp://host/in"])
def test_an_unknown_scheme_names_the_source_and_those_known(kind, uri):
    scheme = uri.split(":")[0]
    message = rf"^source\.path {uri}: scheme '{scheme}' cannot be read; copy the data to one of file, s3, s3a"
    with pytest.raises(SourceError, match=message):
        find_source_state(kind, uri, None)


class Forbidden:
    def get_file_info(self, where):
        raise PermissionError(13, "Permission denied", where)


def test_a_folder_without_permission_is_named(monkeypatch):
    monkeypatch.setattr(source_state, "open_filesystem", lambda uri: (Forbidden(), uri))
    message = r"^source\.path /closed: cannot be reached or read \(.*Permission denied.*\); check the path, its perm"
    with pytest.raises(SourceError, match=message):
        list_files("/closed")


def test_an_unreachable_place_is_named():
    path = "/" + "x" * 300
    with pytest.raises(SourceError, match=rf"^source\.path {path}: cannot be reached or read"):
        list_files(path)


@pytest.mark.parametrize(
    ("path", "flaw"),
    [
        ("abfss://nowhere", "names no container@account; expected such as abfss://container@account"),
        ("file://relative", "names a host: a path starts after three slashes; expected such as file:///data"),
        ("s3a://", "names no bucket; expected such as s3a://bucket"),
        ("file:/data", "has no // after file:"),
        (" ", "is empty"),
    ],
)
@pytest.mark.parametrize("kind", ["files", "delta"])
def test_a_malformed_uri_is_refused_before_anyone_is_asked(kind, path, flaw):
    with pytest.raises(SourceError) as caught:
        find_source_state(kind, path, None)
    assert str(caught.value).startswith(f"source.path '{path}': {flaw}")


def state_of(path: Path) -> dict:
    return find_source_state("files", str(path), None, [("brand", str(path), "csv")])


def test_a_touched_or_copied_source_is_the_same_one(tmp_path):
    touch(tmp_path / "in", "a.csv", "b.csv")
    before = state_of(tmp_path / "in")
    assert before["files_told_apart_by"] == "content"
    os.utime(tmp_path / "in" / "a.csv", (1, 1))
    shutil.copytree(tmp_path / "in", tmp_path / "copy")
    assert state_of(tmp_path / "in") == before == state_of(tmp_path / "copy")


def test_another_content_of_the_same_size_and_time_is_another_source(tmp_path):
    touch(tmp_path, "a.csv")
    os.utime(tmp_path / "a.csv", (1, 1))
    before = state_of(tmp_path)
    (tmp_path / "a.csv").write_text("y")
    os.utime(tmp_path / "a.csv", (1, 1))
    assert state_of(tmp_path)["fingerprint"] != before["fingerprint"]


def test_a_large_source_is_told_apart_by_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(source_state, "_MAX_HASHED_BYTES", 1)
    touch(tmp_path, "a.csv", "b.csv")
    before = state_of(tmp_path)
    assert before["files_told_apart_by"] == "size and time"
    assert state_of(tmp_path) == before
    os.utime(tmp_path / "a.csv", (1, 1))
    assert state_of(tmp_path)["fingerprint"] != before["fingerprint"]
