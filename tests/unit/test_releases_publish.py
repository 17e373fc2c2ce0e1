"""A publish binds what is there and nothing else; killed anywhere, it leaves no release and is begun again."""

import json

import pytest

from recspark.errors import ReleaseError, SetupError
from recspark.lake.arrow import find_done, list_records
from recspark.pipeline.plan import find_state
from recspark.pipeline.side import run_stages
from recspark.releases import publish as module
from recspark.releases.activate import activate
from recspark.releases.publish import publish
from recspark.releases.registry import ACTIVE, BUILDING, FAILED, READY
from recspark.releases.verify import verify_release
from tests.helpers.release_lake import build_releasable, plan_releasable, publish_and_die


def manifest_of(released, release_id):
    return json.loads(released.file("releases", release_id, "manifest.json").read_text())


def test_the_manifest_binds_all_that_the_release_was_made_from(released):
    run, found = released.run(1), manifest_of(released, released.first)
    tables = found["inputs"]["tables"]
    assert set(tables) == {
        "items", "users", "user_histories", "sessions", "user_embeddings", "item_embeddings", "recommendations",
        "metrics",
    }  # fmt: skip
    trained = find_done(run.lake, run.stages["train"])
    assert tables["item_embeddings"]["version"] == trained[0]
    assert tables["item_embeddings"]["key"] == run.stages["train"].key
    assert tables["items"]["rows"] == 60
    assert set(found["inputs"]["folders"]) == {f"indexes/{run.stages['index'].id}", f"models/{run.stages['train'].id}"}
    facts = found["facts"]
    assert facts["index"]["quantizer_fingerprint"]
    assert [shard["file"] for shard in facts["index"]["shards"]] == ["shard-00000.faiss", "shard-00001.faiss"]
    assert facts["split"]["cut"] == "2026-02-01"
    assert (
        facts["measured"]["metrics"]["skip_gram"]["recall@5"] > facts["measured"]["metrics"]["popularity"]["recall@5"]
    )
    assert facts["num_canaries"] == 20
    assert found["config"]["index"]["index"]["kind"] == "flat"


def test_it_is_ready_not_active_and_done_as_a_stage(released):
    row = released.row(released.first)
    assert (row.state, row.reason, row.activated_at) == (READY, "published", None)
    assert released.registry.active is None
    assert find_state(released.run(1), "release").is_done


def test_a_second_publish_finds_it_there(released, capfd):
    version = released.registry.version
    run_stages(released.run(1), ["release"])
    assert released.registry.version == version
    assert publish(released.run(1)).release_id == released.first
    assert f"already published: {released.first}, READY" in capfd.readouterr().err


def test_other_gates_are_the_same_release(released):
    run = plan_releasable(released.folder, 1, release={"num_canaries": 20, "gates": {"min_recall": 0.5}})
    assert publish(run).release_id == released.first


def test_a_folder_that_was_lost_is_published_again(released):
    run = released.run(1)
    released.file("releases", released.first, "canaries.parquet").unlink()
    assert find_state(run, "release").flaw == f"releases/{released.first}: canaries.parquet is missing"
    run_stages(run, ["release"])
    assert [c for c in verify_release(released.lake, released.row(released.first)) if c.flaw] == []


FAULTS = ["release.building", "release.canaries", "release.before_manifest", "release.manifest", "release.ready"]


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_anywhere_it_is_begun_again(tmp_path, fault):
    run = build_releasable(plan_releasable(tmp_path, 1, evaluate=None))
    assert publish_and_die(tmp_path, 1, fault, evaluate=False) == -9
    from recspark.releases.registry import read_registry

    (left,) = read_registry(run.lake).rows.values()
    assert left.state == (READY if fault == "release.ready" else BUILDING)
    assert find_state(run, "release").is_done == (fault == "release.ready")
    row = publish(run)
    assert (row.state, row.release_id) == (READY, left.release_id)
    assert [check.describe() for check in verify_release(run.lake, row) if check.flaw] == []


def test_a_run_without_an_index_cannot_be_released(tmp_path):
    run = build_releasable(plan_releasable(tmp_path, 1, evaluate=None))
    other = plan_releasable(tmp_path, 1, evaluate=None, index={"kind": "ivf_flat", "num_queries": 10})
    with pytest.raises(ReleaseError, match=r"release: no indexes/\w+; run `recspark run CONF --to index` first"):
        publish(other)
    assert publish(run).state == READY


def test_a_run_without_its_evaluation_cannot_be_released(tmp_path):
    build_releasable(plan_releasable(tmp_path, 1, evaluate=None))
    with pytest.raises(ReleaseError, match=r"release: no evaluation of this config .* or leave section evaluate out"):
        publish(plan_releasable(tmp_path, 1))


def test_vectors_trained_again_need_a_new_index(released):
    from tests.helpers.tiny_lake import write_embeddings

    run = released.run(1)
    write_embeddings(run, {i: [1.0] * 6 for i in range(60)})
    with pytest.raises(ReleaseError, match=r"release: the index is made of item_embeddings at version .*; run"):
        publish(run)


def test_a_publish_that_fails_says_why(released):
    run = plan_releasable(released.folder, 1, release={"num_canaries": 7})
    shard = released.file("indexes", run.stages["index"].id, "shard-00001.faiss")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(Exception, match=r"shard-00001\.faiss: SHA-256 differs"):
        publish(run)
    (row,) = [row for row in released.registry.rows.values() if row.state == FAILED]
    assert "shard-00001.faiss: SHA-256 differs" in row.reason
    assert not find_state(run, "release").is_done
    newest = next(record for _, record in list_records(released.lake, "releases"))
    assert newest.facts["failed"] == row.reason


@pytest.mark.parametrize("place", ["write_canaries", "publish_folder"])
def test_a_full_disk_leaves_a_failure_and_no_release(released, monkeypatch, place):
    run = plan_releasable(released.folder, 1, release={"num_canaries": 7})

    def fill(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, place, fill)
    with pytest.raises(SetupError, match="release: the disk is full"):
        run_stages(run, ["release"])
    (row,) = [row for row in released.registry.rows.values() if row.state == FAILED]
    assert row.reason == "[Errno 28] No space left on device"
    assert not released.file("releases", row.release_id, "manifest.json").exists()
    monkeypatch.undo()
    run_stages(run, ["release"])
    assert released.row(row.release_id).state == READY


def test_a_damaged_active_release_is_not_published_over(released):
    activate(released.lake, released.first)
    released.file("releases", released.first, "canaries.parquet").unlink()
    with pytest.raises(ReleaseError, match=r"is active and damaged \(.*canaries.parquet is missing\); restore it"):
        publish(released.run(1))
    assert released.row(released.first).state == ACTIVE


@pytest.mark.parametrize("point", ["release.building", "release.before_manifest", "release.manifest"])
def test_of_two_publishers_of_one_release_the_later_one_makes_it(released, monkeypatch, point):
    """While the first is at work another one begins, is done, and its release becomes active: that one stays whole."""
    run = plan_releasable(released.folder, 1, release={"num_canaries": 7})

    def interrupt(name):
        if name == point:
            monkeypatch.setattr(module, "fault_point", lambda _: None)
            activate(released.lake, publish(run).release_id)

    monkeypatch.setattr(module, "fault_point", interrupt)
    with pytest.raises(ReleaseError, match=r"another publisher has taken it up meanwhile \(it is ACTIVE, activated\)"):
        publish(run)
    row = released.registry.active
    assert (row.index_id, row.state) == (run.stages["index"].id, ACTIVE)
    assert [check.describe() for check in verify_release(run.lake, row) if check.flaw] == []


def test_a_release_that_was_published_while_one_looked_is_left_as_it_is(released, monkeypatch):
    run = plan_releasable(released.folder, 1, release={"num_canaries": 7})
    real = module.read_registry

    def read_and_be_late(lake):
        found = real(lake)
        monkeypatch.setattr(module, "read_registry", real)
        activate(released.lake, publish(run).release_id)
        return found

    monkeypatch.setattr(module, "read_registry", read_and_be_late)
    assert publish(run).state == ACTIVE
    assert [c for c in verify_release(run.lake, released.registry.active) if c.flaw] == []
