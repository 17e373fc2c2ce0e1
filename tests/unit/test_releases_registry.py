"""One row a release, every change one commit: whoever comes second looks again."""

from dataclasses import replace

import pytest
from deltalake import DeltaTable

from recspark.errors import LakeError, ReleaseError
from recspark.lake.arrow import list_records
from recspark.releases import registry as module
from recspark.releases.registry import (
    BUILDING,
    READY,
    Registry,
    ReleaseRow,
    action_record,
    change_registry,
    now,
    read_registry,
)


def make_row(release_id, state=BUILDING):
    return ReleaseRow(release_id, state, "is being published", "model", "index", now(), now())


def add(lake, row):
    return change_registry(lake, lambda found: found.rows | {row.release_id: row}, action_record("add", row.release_id))


def test_a_lake_without_releases_has_no_active_one(lake):
    found = read_registry(lake)
    assert (found.version, found.rows, found.active) == (-1, {}, None)


def test_rows_come_back_as_they_were_written_in_order_of_creation(lake):
    late, early = make_row("bbb"), replace(make_row("aaa"), state=READY, manifest_sha256="00", activated_at=now())
    add(lake, late)
    written = add(lake, early)
    assert read_registry(lake).rows == written.rows
    assert list(read_registry(lake).rows) == ["bbb", "aaa"]


def test_each_change_is_one_commit_that_says_what_was_done(lake):
    for name in ("aaa", "bbb"):
        add(lake, make_row(name))
    assert [(version, record.facts["release_id"]) for version, record in list_records(lake, "releases")] == [
        (1, "bbb"),
        (0, "aaa"),
    ]


def test_a_writer_that_was_overtaken_decides_again_on_the_newest_rows(lake):
    add(lake, make_row("aaa"))
    seen = []

    def change(found: Registry):
        seen.append(sorted(found.rows))
        if len(seen) == 1:
            add(lake, make_row("bbb"))  # another writer, between reading and committing
        return found.rows | {"ccc": make_row("ccc")}

    change_registry(lake, change, action_record("add", "ccc"))
    assert seen == [["aaa"], ["aaa", "bbb"]]
    assert sorted(read_registry(lake).rows) == ["aaa", "bbb", "ccc"]
    assert DeltaTable(f"{lake}/tables/releases").version() == 2


def test_two_who_make_the_table_leave_both_rows(lake):
    def change(found: Registry):
        if not found.rows:
            add(lake, make_row("aaa"))
        return found.rows | {"bbb": make_row("bbb")}

    change_registry(lake, change, action_record("add", "bbb"))
    assert sorted(read_registry(lake).rows) == ["aaa", "bbb"]


def test_a_writer_that_is_always_overtaken_says_so(lake, monkeypatch):
    monkeypatch.setattr(module, "_TRIES", 2)
    add(lake, make_row("aaa"))

    def change(found: Registry):
        add(lake, make_row(f"other-{found.version}"))
        return found.rows

    with pytest.raises(LakeError, match="releases: other writers came in between 2 times; run again"):
        change_registry(lake, change, action_record("add", "ccc"))


def test_a_release_is_found_by_the_start_of_its_id(lake):
    for name in ("3fa2c1", "3fa9", "77"):
        add(lake, make_row(name))
    found = read_registry(lake)
    assert found.find("3fa2").release_id == "3fa2c1"
    with pytest.raises(ReleaseError, match="release 3fa: 2 ids start so; give more of it"):
        found.find("3fa")
    with pytest.raises(ReleaseError, match=r"releases: no release 'zz'; the newest are: 3fa2c1, 3fa9, 77"):
        found.find("zz")
    with pytest.raises(ReleaseError, match="no release"):
        found.find("")
