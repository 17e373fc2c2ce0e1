"""Old versions' files go, but none that a release pins: shown by reading the pinned versions afterwards."""

import os
import time

import pytest
from deltalake import DeltaTable

from recspark.errors import LakeError, ReleaseError
from recspark.lake.arrow import open_table
from recspark.releases.vacuum import find_pins, vacuum_table, vacuum_tables
from recspark.releases.verify import verify_release
from tests.helpers.tiny_lake import write_embeddings


def read(released, version):
    return DeltaTable(str(released.file("tables", "item_embeddings")), version=version).to_pyarrow_table()


def replace_vectors(released, times=2):
    """More versions of `item_embeddings`, each overwriting the one before; their numbers."""
    run = released.run(1)
    versions = []
    for number in range(times):
        write_embeddings(run, {i: [float(number + 1)] * 6 for i in range(60)})
        versions.append(open_table(run.lake, "item_embeddings").version())
    return versions


def test_pins_are_the_versions_that_releases_bind(released):
    pins = find_pins(released.lake)
    assert pins["items"] == {0: [released.first, released.second]}
    found = pins["item_embeddings"]
    assert [found[version] for version in sorted(found)] == [[released.first], [released.second]]


def test_pinned_versions_stay_readable_and_others_are_freed(released):
    superseded, newest = replace_vectors(released)
    pinned = find_pins(released.lake)["item_embeddings"]
    freed = vacuum_table(released.lake, "item_embeddings", 0, pinned, is_dry=False)
    assert len(freed.files) == 1
    assert freed.bytes > 0
    assert read(released, newest).num_rows == 60
    with pytest.raises(Exception, match="parquet"):
        read(released, superseded)
    for release_id in (released.first, released.second):
        assert [c for c in verify_release(released.lake, released.row(release_id)) if c.flaw] == []


def test_a_dry_run_tells_bytes_and_pins_and_frees_nothing(released):
    superseded, _ = replace_vectors(released)
    pinned = find_pins(released.lake)["item_embeddings"]
    freed = vacuum_table(released.lake, "item_embeddings", 0, pinned, is_dry=True)
    head, *lines = freed.describe(is_dry=True).splitlines()
    assert head.startswith("item_embeddings      would free 1 files, ")
    assert {line.strip() for line in lines} == {
        f"version {version} is kept: pinned by release {releases[0]}" for version, releases in pinned.items()
    }
    assert read(released, superseded).num_rows == 60


def test_young_versions_stay_and_dead_writers_files_go(released):
    superseded, _ = replace_vectors(released)
    left = released.file("tables", "item_embeddings", "model_id=x", "part-dead.parquet")
    left.parent.mkdir()
    left.write_bytes(b"dead")
    found = {freed.table: freed for freed in vacuum_tables(released.lake, 30, is_dry=False)}
    assert left.exists()
    assert read(released, superseded).num_rows == 60
    then = time.time() - 40 * 86_400
    os.utime(left, (then, then))
    found = {freed.table: freed for freed in vacuum_tables(released.lake, 30, is_dry=False)}
    assert found["item_embeddings"].files == ["model_id=x/part-dead.parquet"]
    assert not left.exists()
    assert "releases" not in found


def test_walks_keep_the_tables_below_them(lake):
    """`walks/chunks` holds tables of their own, which the log of `walks` does not know."""
    from recspark.contracts.tables import WALKS
    from recspark.lake.arrow import write_table
    from recspark.releases.registry import action_record

    write_table(lake, WALKS, WALKS.schema.empty_table(), action_record("test", ""))
    chunk = f"{lake}/tables/walks/chunks/k/part.parquet"
    os.makedirs(os.path.dirname(chunk))
    with open(chunk, "wb") as file:
        file.write(b"chunk")
    os.utime(chunk, (0, 0))
    assert vacuum_tables(lake, 1, is_dry=False)[0].files == []
    assert os.path.exists(chunk)


def test_too_few_days_are_refused(released):
    with pytest.raises(ReleaseError, match="--days must be at least 1, got 0"):
        vacuum_tables(released.lake, 0, is_dry=True)


def test_nothing_is_freed_where_a_pin_cannot_be_read(released):
    replace_vectors(released)
    with pytest.raises(ReleaseError, match=r"release 3fa2 pins what is gone: .*version 99"):
        vacuum_table(released.lake, "item_embeddings", 0, {99: ["3fa2"]}, is_dry=False)
    released.file("releases", released.first, "manifest.json").unlink()
    with pytest.raises((ReleaseError, LakeError), match=f"release {released.first}"):
        vacuum_tables(released.lake, 30, is_dry=False)
