"""A folder is there when its manifest is; damage is named before anyone reads the file."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from recspark.errors import LakeError, SourceError
from recspark.lake.folders import check_file, find_flaw, folder_uri, publish_folder, read_manifest, unpublish_folder
from recspark.lake.source_state import find_source_state, list_files
from recspark.lake.storage import check_uri, join, read_bytes, write_bytes


@pytest.fixture
def published(lake):
    folder = folder_uri(lake, "models", "abc")
    write_bytes(join(folder, "a.bin"), b"vectors")
    write_bytes(join(folder, "sub/b.bin"), b"")
    facts = {"counts": {}, "config": {}, "inputs": {}, "facts": {}, "run_id": "r"}
    return publish_folder(lake, "models", "abc", ["a.bin", "sub/b.bin"], **facts)


def test_a_published_folder_reads_back(lake, published):
    assert read_manifest(lake, "models", "abc") == published
    assert [check_file(lake, "models", "abc", f).split("/")[-1] for f in published.files] == ["a.bin", "b.bin"]


def publish_again(lake, kind="models", **changes):
    parts = {"counts": {}, "config": {}, "inputs": {}, "facts": {"seconds": 3}, "run_id": "later"}
    return publish_folder(lake, kind, "abc", ["a.bin", "sub/b.bin"], **(parts | changes))


def test_a_folder_built_again_alike_keeps_its_manifest(lake, published):
    path = Path(folder_uri(lake, "models", "abc"))
    content = (path / "manifest.json").read_bytes()
    for _ in range(2):  # a build that was killed is begun again
        unpublish_folder(lake, "models", "abc")
    assert publish_again(lake) == published
    assert (path / "manifest.json").read_bytes() == content
    assert sorted(file.name for file in path.iterdir()) == ["a.bin", "manifest.json", "sub"]


@pytest.mark.parametrize("change", [{"inputs": {"items": 3}}, {"config": {"a": 1}}, {"counts": {"items": 1}}, None])
def test_a_folder_built_again_in_another_way_has_another_manifest(lake, published, change):
    unpublish_folder(lake, "models", "abc")
    if change is None:
        write_bytes(join(folder_uri(lake, "models", "abc"), "a.bin"), b"Vectors")
    assert publish_again(lake, **(change or {})).run_id == "later"
    assert read_manifest(lake, "models", "abc").facts == {"seconds": 3}
    unpublish_folder(lake, "models", "abc")
    write_bytes(join(folder_uri(lake, "models", "abc"), "manifest.before.json"), b"{")
    assert publish_again(lake).run_id == "later"


def test_no_manifest_no_folder(lake):
    write_bytes(join(folder_uri(lake, "models", "half"), "a.bin"), b"x")
    assert read_manifest(lake, "models", "half") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), "missing, but listed in the manifest"),
        (lambda p: p.write_bytes(b"vec"), "3 bytes, the manifest says 7"),
        (lambda p: p.write_bytes(b"vectorz"), "SHA-256 differs"),
    ],
)
def test_damage_is_named(lake, published, damage, message):
    damage(Path(folder_uri(lake, "models", "abc")) / "a.bin")
    with pytest.raises(LakeError, match=rf"a\.bin: .*{message}"):
        check_file(lake, "models", "abc", published.file("a.bin"))


@pytest.mark.parametrize(
    ("damage", "flaw"),
    [
        (lambda p: (p / "a.bin").unlink(), "models/abc: a.bin is missing"),
        (lambda p: (p / "a.bin").write_bytes(b"vec"), "models/abc: a.bin has 3 bytes, the manifest says 7"),
        (lambda p: (p / "sub" / "b.bin").write_bytes(b"x"), "models/abc: sub/b.bin has 1 bytes, the manifest says 0"),
        (
            lambda p: (p / "manifest.json").unlink(),
            "models/abc has no manifest.json: its build was stopped, or the manifest is lost",
        ),
        (shutil.rmtree, "no models/abc"),
        # the same size: seen by check_file alone, which reads the file
        (lambda p: (p / "a.bin").write_bytes(b"vectorz"), None),
    ],
)
def test_what_a_run_sees_of_damage(lake, published, damage, flaw):
    assert find_flaw(lake, "models", "abc") is None
    damage(Path(folder_uri(lake, "models", "abc")))
    assert find_flaw(lake, "models", "abc") == flaw


def test_several_losses_are_named_together(lake, published):
    for name in ("a.bin", "sub/b.bin"):
        Path(folder_uri(lake, "models", "abc"), name).unlink()
    assert find_flaw(lake, "models", "abc") == "models/abc: a.bin is missing; sub/b.bin is missing"


def test_an_unpublished_folder_is_not_there(lake, published):
    for _ in range(2):
        unpublish_folder(lake, "models", "abc")
        assert read_manifest(lake, "models", "abc") is None
    assert Path(folder_uri(lake, "models", "abc"), "a.bin").exists()


ENTRY = {"path": "a.bin", "bytes": 7, "sha256": "0"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (b"\xff\xfe", "utf-8"),
        (b"<html>", "not JSON"),
        (b"[1]", "no object with a format_version"),
        ({"format_version": 7}, "format_version 7, this code reads 1"),
        ({"files": None}, "files is None, expected a list"),
        ({"files": [7]}, "not a recspark manifest: "),
        ({"files": [ENTRY | {"bytes": "7"}]}, "bytes is '7', expected int"),
        ({"facts": [1]}, "facts is \\[1\\], expected dict"),
        ({"run_id": 3}, "run_id is 3, expected str"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_junk_manifest_is_named_and_counts_as_none(lake, published, change, message):
    uri = join(folder_uri(lake, "models", "abc"), "manifest.json")
    content = json.dumps(asdict(published) | change).encode() if isinstance(change, dict) else change
    write_bytes(uri, content)
    advice = "; restore it, or run `recspark run CONF --to train` to build again"
    with pytest.raises(LakeError, match=rf"{uri}: .*{message}.*{advice}"):
        read_manifest(lake, "models", "abc")
    assert re.search(rf"models/abc/manifest\.json cannot be read: .*{message}", find_flaw(lake, "models", "abc"))


def test_unknown_scheme_is_refused():
    assert check_uri("s3a://bucket/lake") == "s3a://bucket/lake"
    with pytest.raises(LakeError, match="scheme 'ftp'"):
        check_uri("ftp://host/lake")


def test_missing_small_file_is_none(tmp_path):
    assert read_bytes(str(tmp_path / "none")) is None


def test_fingerprint_follows_names_sizes_and_times(tmp_path):
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / ".hidden").write_text("x")
    before = find_source_state("files", str(tmp_path), None)
    assert (before["num_files"], before["bytes"]) == (1, 1)
    assert find_source_state("files", str(tmp_path), None) == before
    (tmp_path / "b.csv").write_text("yy")
    assert find_source_state("files", str(tmp_path), None)["fingerprint"] != before["fingerprint"]


def test_globs_and_single_files(tmp_path):
    for name in ("2026-01-01.csv.gz", "2026-01-02.csv.gz", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert [f[0] for f in list_files(f"{tmp_path}/*.csv.gz")] == ["2026-01-01.csv.gz", "2026-01-02.csv.gz"]
    assert [f[0] for f in list_files(f"{tmp_path}/notes.txt")] == ["notes.txt"]


@pytest.mark.parametrize(("path", "message"), [("none.csv", "no such file or folder"), ("*.csv", "no files there")])
def test_a_source_that_is_not_there(tmp_path, path, message):
    with pytest.raises(SourceError, match=message):
        find_source_state("files", f"{tmp_path}/{path}", None)


def test_delta_versions(tmp_path):
    import pyarrow as pa
    from deltalake import write_deltalake

    uri = str(tmp_path / "t")
    with pytest.raises(SourceError, match="no Delta table there"):
        find_source_state("delta", uri, None)
    write_deltalake(uri, pa.table({"a": [1]}))
    write_deltalake(uri, pa.table({"a": [2]}), mode="append")
    assert find_source_state("delta", uri, None)["version"] == 1
    assert find_source_state("delta", uri, 0)["version"] == 0
    with pytest.raises(SourceError, match=r"source\.version 9 of .* is gone or not there yet; the newest is 1"):
        find_source_state("delta", uri, 9)
