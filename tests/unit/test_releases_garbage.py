"""What may be removed hangs on who still refers to it: releases, readers, indexes upon indexes, and age."""

import json
import os
import shutil
import time
from dataclasses import replace

import pytest

from recspark.errors import ReleaseError
from recspark.faults import FAULT_VARIABLE
from recspark.lake.folders import list_folders
from recspark.releases import garbage as module
from recspark.releases import reader
from recspark.releases.activate import activate
from recspark.releases.garbage import collect_garbage, find_garbage
from recspark.releases.leases import list_leases, take_lease
from recspark.releases.reader import open_release
from recspark.releases.registry import action_record, change_registry, read_registry
from recspark.releases.verify import verify_release


def there(released):
    return {(kind, folder_id) for kind in module.KINDS for folder_id in list_folders(released.lake, kind)}


def folders_of(released, release_id):
    row = released.row(release_id)
    return {("releases", release_id), ("indexes", row.index_id), ("models", row.model_id)}


def age(path, days):
    """Makes files look that old."""
    then = time.time() - days * 86_400
    for file in path.rglob("*"):
        os.utime(file, (then, then))


def test_the_newest_published_ones_stay(released):
    first = folders_of(released, released.first)
    assert collect_garbage(released.lake, keep=2, days=30).rows == []
    found = collect_garbage(released.lake, keep=1, days=30)
    assert found.kept == {released.second: "one of the newest 1"}
    assert set(found.folders) == first
    assert not first & there(released)
    assert list(released.registry.rows) == [released.second]
    assert [c for c in verify_release(released.lake, released.row(released.second)) if c.flaw] == []


def test_a_dry_run_says_it_and_removes_nothing(released):
    before = there(released)
    found = find_garbage(released.lake, keep=0, days=30)
    said = found.describe(released.lake, is_dry=True).splitlines()
    assert f"would remove release {released.first}: READY, published" in said
    assert any(line.endswith(f"/releases/{released.first}") for line in said)
    assert there(released) == before
    assert find_garbage(released.lake, keep=2, days=30).describe(released.lake, True).count("kept") == 2


def test_what_is_active_and_where_a_rollback_goes_stay(released):
    activate(released.lake, released.first)
    activate(released.lake, released.second)
    assert collect_garbage(released.lake, keep=0, days=0).kept == {
        released.second: "active", released.first: "where a rollback goes",
    }  # fmt: skip
    assert [c for c in verify_release(released.lake, released.row(released.first)) if c.flaw] == []


def test_what_a_reader_has_open_stays_until_it_closes(released):
    with open_release(released.lake, released.first) as release:
        found = collect_garbage(released.lake, keep=0, days=0)
        assert list(found.kept) == [released.first]
        assert found.kept[released.first].startswith("leased by ")
        assert release.recommend([["i1"]], 3).item_ids
    assert collect_garbage(released.lake, keep=0, days=0).kept == {}
    assert released.registry.rows == {}


def test_what_a_reader_opens_while_a_collection_looks_is_put_back(released, monkeypatch):
    """The lease is taken after leases were listed, and before the row is gone."""
    real, opened = module._forget, []

    def be_late(lake, rows):
        opened.append(open_release(lake, released.first))
        real(lake, rows)

    monkeypatch.setattr(module, "_forget", be_late)
    found = collect_garbage(released.lake, keep=0, days=0)
    assert list(found.kept) == [released.first] == list(released.registry.rows)
    assert found.kept[released.first].startswith("leased meanwhile by ")
    assert [row.release_id for row in found.rows] == [released.second]
    assert there(released) == folders_of(released, released.first)
    assert opened[0].recommend([["i1"]], 3).item_ids
    assert [c for c in verify_release(released.lake, released.row(released.first)) if c.flaw] == []


def test_a_reader_whose_row_went_before_its_lease_takes_the_active_release(released, monkeypatch):
    real = reader.take_lease

    def be_late(*arguments):
        monkeypatch.setattr(reader, "take_lease", real)
        activate(released.lake, released.second)
        change_registry(  # as if others had been active in between
            released.lake,
            lambda found: {released.second: replace(found.rows[released.second], previous_id=None)},
            action_record("test", released.second),
        )
        return real(*arguments)

    activate(released.lake, released.first)
    monkeypatch.setattr(reader, "take_lease", be_late)
    with open_release(released.lake) as release:
        assert release.release_id == released.second
        assert [lease.release_id for lease in list_leases(released.lake)] == [released.second]
    monkeypatch.setattr(reader, "take_lease", be_late)
    with pytest.raises(ReleaseError, match=f"no release '{released.first}'"):
        open_release(released.lake, released.first)
    assert list_leases(released.lake) == []


def test_a_lease_that_has_run_out_keeps_nothing(released):
    take_lease(released.lake, released.first, hours=-1)
    assert list_leases(released.lake) == []
    assert find_garbage(released.lake, keep=0, days=0).kept == {}
    collect_garbage(released.lake, keep=2, days=0)
    assert not list(released.file("leases").rglob("*.json"))


def test_a_lease_that_cannot_be_read_keeps_its_release(released):
    path = released.file("leases", released.first, "x.json")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert find_garbage(released.lake, keep=0, days=0).kept[released.first].startswith("leased by unknown")


def test_an_index_upon_another_keeps_it(released):
    """An incremental index names its base: with a release of the one, the shards of the other are needed."""
    base, upon = released.row(released.first).index_id, released.row(released.second).index_id
    path = released.file("indexes", upon, "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["facts"]["base"] = {"index_id": base}
    path.write_text(json.dumps(manifest))
    found = find_garbage(released.lake, keep=1, days=0)
    assert ("indexes", base) not in found.folders
    assert ("models", released.row(released.first).model_id) in found.folders


def test_what_was_never_released_goes_when_it_is_old(released):
    young, old = released.file("indexes", "young"), released.file("indexes", "old")
    for folder in (young, old):
        shutil.copytree(released.file("indexes", released.row(released.first).index_id), folder)
    age(old, 31)
    assert find_garbage(released.lake, keep=2, days=30).folders == [("indexes", "old")]
    assert set(find_garbage(released.lake, keep=2, days=0).folders) == {("indexes", "old"), ("indexes", "young")}


def test_a_young_index_keeps_its_model_though_a_release_of_that_goes(released):
    """A new index of a model that was released before: it is yet to be released itself."""
    row = released.row(released.first)
    shutil.copytree(released.file("indexes", row.index_id), released.file("indexes", "young"))
    found = find_garbage(released.lake, keep=1, days=30)
    assert ("indexes", row.index_id) in found.folders
    assert ("models", row.model_id) not in found.folders
    assert ("models", row.model_id) in find_garbage(released.lake, keep=1, days=0).folders


def test_a_young_index_keeps_its_base_however_old(released):
    old, young = released.file("indexes", "old"), released.file("indexes", "young")
    for folder in (old, young):
        shutil.copytree(released.file("indexes", released.row(released.first).index_id), folder)
    manifest = json.loads((young / "manifest.json").read_text())
    manifest["facts"]["base"] = {"index_id": "old"}
    (young / "manifest.json").write_text(json.dumps(manifest))
    age(old, 31)
    assert find_garbage(released.lake, keep=2, days=30).folders == []


def test_a_publisher_at_work_is_left_alone_and_a_dead_one_is_not(released):
    def build(found):
        row = found.rows[released.first]
        return found.rows | {row.release_id: row.moved("BUILDING", "is being published", manifest_sha256=None)}

    change_registry(released.lake, build, action_record("test", released.first))
    assert find_garbage(released.lake, keep=1, days=1).kept[released.first] == "is being published"
    assert released.first not in find_garbage(released.lake, keep=1, days=0).kept


def test_a_failure_stays_in_the_list_for_a_while(released):
    def fail(found):
        row = found.rows[released.first]
        return found.rows | {row.release_id: row.moved("FAILED", "out of disk", manifest_sha256=None)}

    change_registry(released.lake, fail, action_record("test", released.first))
    assert find_garbage(released.lake, keep=1, days=1).kept[released.first] == "out of disk"
    assert released.first not in find_garbage(released.lake, keep=1, days=0).kept


def test_an_index_that_cannot_be_read_goes_with_its_release(released):
    index_id = released.row(released.first).index_id
    released.file("indexes", index_id, "manifest.json").write_text("{")
    assert ("indexes", index_id) in collect_garbage(released.lake, keep=1, days=30).folders
    released.file("indexes", released.row(released.second).index_id, "manifest.json").write_text("{")
    with pytest.raises(ReleaseError, match="cannot tell what a kept release needs"):
        find_garbage(released.lake, keep=1, days=30)


def test_nothing_goes_where_a_kept_release_cannot_say_what_it_needs(released):
    released.file("releases", released.second, "manifest.json").write_text("{}")
    before = there(released)
    with pytest.raises(ReleaseError, match="gc: cannot tell what a kept release needs, so nothing is removed: "):
        collect_garbage(released.lake, keep=1, days=0)
    assert there(released) == before
    assert len(read_registry(released.lake).rows) == 2


def test_a_release_that_became_active_meanwhile_stays(released, monkeypatch):
    real = module.find_garbage

    def find_and_be_late(*arguments):
        found = real(*arguments)
        activate(released.lake, released.first)
        return found

    monkeypatch.setattr(module, "find_garbage", find_and_be_late)
    with pytest.raises(ReleaseError, match=f"gc: release {released.first} became ACTIVE meanwhile; run it again"):
        collect_garbage(released.lake, keep=1, days=0)
    assert [c for c in verify_release(released.lake, released.row(released.first)) if c.flaw] == []


@pytest.mark.parametrize("point", ["gc.rows", "gc.folder"])
def test_a_killed_collection_is_gone_on_with(released, monkeypatch, point):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    kept = folders_of(released, released.second)
    monkeypatch.setenv(FAULT_VARIABLE, point)
    monkeypatch.setattr("os.kill", die)
    with pytest.raises(Killed):
        collect_garbage(released.lake, keep=1, days=0)
    monkeypatch.delenv(FAULT_VARIABLE)
    assert list(released.registry.rows) == [released.second]
    collect_garbage(released.lake, keep=1, days=0)
    assert there(released) == kept
