"""Where a lake may be: malformed URIs, files in the way and silent stores are refused before anything runs."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from recspark.errors import LakeError
from recspark.lake import storage
from recspark.lake.storage import check_lake, find_uri_flaw

GOOD = ["lake", "./a b/lake", "/data/lake", "file:///data/lake", "s3://b/l", "s3a://b", "gs://b/l",
        "abfss://c@a.dfs.core.windows.net/l"]  # fmt: skip


@pytest.mark.parametrize("uri", GOOD)
def test_a_good_uri_has_no_flaw(uri):
    assert find_uri_flaw(uri) is None


@pytest.mark.parametrize(
    ("uri", "flaw"),
    [
        ("", "is empty; expected such as lake/shop"),
        ("  ", "is empty; expected such as lake/shop"),
        ("s3a://", "names no bucket; expected such as s3a://bucket/shop"),
        ("s3a:///lake", "names no bucket; expected such as s3a://bucket/shop"),
        ("s3://", "names no bucket; expected such as s3://bucket/shop"),
        ("gs://", "names no bucket; expected such as gs://bucket/shop"),
        ("s3a:bucket/lake", "has no // after s3a:; expected such as s3a://bucket/shop"),
        ("file:/data/lake", "has no // after file:; expected such as file:///data/shop"),
        ("file://data/lake", "names a host: a path starts after three slashes; expected such as file:///data/shop"),
        ("file://", "names no folder: a path starts after three slashes; expected such as file:///data/shop"),
        ("abfss://lake", "names no container@account; expected such as abfss://container@account.dfs.core.windows.net"),
        ("~/lake", "~ is not replaced by your home folder; write it out, or as ${env:HOME}/lake"),
    ],
)
def test_a_malformed_uri_is_refused_with_an_example(uri, flaw):
    with pytest.raises(LakeError) as caught:
        check_lake(uri)
    assert str(caught.value).startswith(f"paths.lake {uri!r}: {flaw}")


@pytest.mark.parametrize("below", ["", "/deeper/lake"])
@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below, form):
    file = tmp_path / "notes.txt"
    file.write_text("x")
    uri = form.format(file) + below
    with pytest.raises(LakeError) as caught:
        check_lake(uri)
    assert str(caught.value) == f"paths.lake {uri}: {file} is a file, a lake is a folder; choose another place"


@pytest.mark.parametrize("below", ["", "not/yet"])
def test_a_folder_that_is_there_or_can_be_made_is_fine(tmp_path, below):
    check_lake(f"{tmp_path}/{below}")
    check_lake(f"file://{tmp_path}/{below}")


@pytest.mark.parametrize("error", [OSError("no route to host\nmore"), pa.ArrowInvalid("no route to host")])
def test_a_store_that_does_not_answer_is_named(monkeypatch, error):
    def fail(uri):
        raise error

    monkeypatch.setattr(storage, "open_filesystem", fail)
    with pytest.raises(
        LakeError, match=r"^paths\.lake s3a://b/l: cannot be reached \(no route to host\); check the URI"
    ):
        check_lake("s3a://b/l")


def test_what_is_free_is_known_of_a_folder_to_be_made_and_not_of_a_store(tmp_path, monkeypatch):
    free = storage.free_disk_bytes(str(tmp_path / "not" / "there"))
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    monkeypatch.setattr(storage, "open_filesystem", lambda uri: (object(), "bucket/lake"))
    assert storage.free_disk_bytes("s3://bucket/lake") is None
