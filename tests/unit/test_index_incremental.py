"""An index on top of an earlier one: the same answers as one built at once, by fewer files; and when it is not done."""

import dataclasses
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

from recspark.config.index import IncrementalIndexConfig
from recspark.errors import IndexBuildError, IndexReadError
from recspark.index import incremental
from recspark.index.finish import find_drift
from recspark.index.job import build_index
from recspark.index.steps import read_step
from recspark.index.store import open_index
from recspark.index.vectors import digest_vectors
from recspark.lake.arrow import find_done
from recspark.lake.folders import read_manifest
from tests.helpers.index_lake import clustered, exact_top, make_items, plan_index_run, write_items

KNOBS = {"kind": "ivf_pq", "num_shards": 2, "target_recall": 0.8, "train_sample": 400, "num_queries": 50,
         "incremental": {"max_recall_drop": 0.2}}  # fmt: skip


def build(lake, items, day, metric="cosine", **more):
    """A run of its own keys after its index stage."""
    run = plan_index_run(lake, dim=items.dim, source=f"day {day}", **(KNOBS | more))
    write_items(run, items, metric=metric)
    build_index(run)
    return run


def manifest_of(run):
    return read_manifest(run.lake, "indexes", run.stages["index"].id)


def opened(run, **how):
    return open_index(run.lake, run.stages["index"].id, **how)


def change(items, num_removed=20, num_changed=30, num_new=40, seed=5):
    """The items a day later."""
    draw = np.random.default_rng(seed)
    kept = items.take(np.sort(draw.choice(len(items), len(items) - num_removed, replace=False)))
    vectors = kept.vectors.copy()
    vectors[draw.choice(len(kept), num_changed, replace=False)] = clustered(num_changed, items.dim, seed=seed)
    new_idx = np.setdiff1d(np.arange(3 * len(items) + 500), items.item_idx)[-num_new:] if num_new else np.empty(0, int)
    item_idx = np.concatenate([kept.item_idx, new_idx])
    order = np.argsort(item_idx)
    vectors = np.vstack([vectors, clustered(num_new, items.dim, seed=seed + 1)])[order].astype(np.float32)
    bias = np.concatenate([kept.bias, np.zeros(num_new, np.float32)])[order]
    ids = pa.array([f"item-{i}" for i in item_idx[order]])
    return dataclasses.replace(
        items, item_idx=item_idx[order], item_id=ids, vectors=vectors, queries=vectors, bias=bias
    )


def faiss_over(lake, base_id, index, items, nprobe):
    """All of today's items added to the base's quantizers, by faiss alone."""
    single = faiss.read_index(str(Path(lake) / "indexes" / base_id / "trained.faiss"))
    single.add_with_ids(index.space.encode_vectors(items.vectors, items.bias), items.item_idx)
    if index.kind != "flat":
        faiss.extract_index_ivf(single).nprobe = nprobe
    return single


KINDS = [("flat", {}), ("ivf_flat", {}), ("ivf_pq", {}), ("ivf_pq", {"nbits": 4}), ("ivf_pq", {"opq": True})]


@pytest.mark.parametrize(("kind", "more"), KINDS)
def test_answers_are_those_of_one_index_over_all_items(lake, kind, more):
    items = make_items(2000, 16, bias=0.2)
    base = build(lake, items, 1, kind=kind, refine="none", m=4 if kind == "ivf_pq" else None, **more)
    today = change(items)
    run = build(lake, today, 2, kind=kind, refine="none", m=4 if kind == "ivf_pq" else None, **more)
    facts, base_id = manifest_of(run).facts, base.stages["index"].id
    assert facts["delta"] | {"share": 0} == {"new": 40, "changed": 30, "removed": 20, "share": 0}
    queries = clustered(100, 16, seed=9)
    for join_lists in (True, False):
        index = opened(run, join_lists=join_lists)
        nprobe = index.effort_for(15)
        encoded = index.space.encode_queries(queries)
        wanted = faiss_over(lake, base_id, index, today, nprobe).search(encoded.points, 15)
        ids, scores = index.search(queries, 15, effort=nprobe)
        is_same = ids == wanted[1]
        assert is_same.mean() > 0.98 if more.get("nbits") == 4 else is_same.all()  # faiss breaks ties by place
        np.testing.assert_array_equal(np.sort(scores), np.sort(index.space.scores(wanted[0], encoded)))
        assert len(index) == len(today) == sum(shard.ntotal for shard in index.shards)


@pytest.mark.parametrize(("kind", "more"), [("flat", {}), ("ivf_pq", {"opq": True, "m": 4, "train_sample": 300})])
def test_one_file_holds_what_shards_delta_and_tombstones_say(lake, kind, more):
    """Plain faiss, asked with the index's own points, finds the same."""
    knobs = {"kind": kind, "single_file": True, "refine": "none", "num_queries": 20} | more
    items = make_items(900, 16, bias=0.2)
    days = [build(lake, items, 1, **knobs)]
    today = change(items)
    days.append(build(lake, today, 2, **knobs))
    for run, held in zip(days, (items, today), strict=True):
        index = opened(run)
        single = faiss.read_index(str(Path(lake) / "indexes" / run.stages["index"].id / "index.faiss"))
        assert single.ntotal == len(held)
        if kind == "ivf_pq":
            faiss.extract_index_ivf(single).nprobe = index.effort_for(5)
        encoded = index.space.encode_queries(held.vectors[:50])
        distances, ids = single.search(encoded.points, 5)
        found, scores = index.search(held.vectors[:50], 5, effort=index.effort_for(5))
        np.testing.assert_array_equal(scores, index.space.scores(distances, encoded))
        np.testing.assert_array_equal(found, ids)


def test_whoever_trains_publishes_a_delta_at_once_and_others_find_it_done(lake, capfd):
    items = make_items(900, 16)
    build(lake, items, 1)
    run = plan_index_run(lake, source="day 2", **KNOBS)
    write_items(run, change(items))
    build_index(run, read_step("train", None))
    assert "base" in manifest_of(run).facts
    for step, shards in (("add", "0-1"), ("finish", None)):
        build_index(run, read_step(step, shards))
    assert capfd.readouterr().err.count("already done") == 2


def test_the_manifest_names_what_is_shared_by_hash(lake):
    items = make_items(900, 16)
    base = build(lake, items, 1)
    run = build(lake, change(items), 2)
    manifest, of_base = manifest_of(run), manifest_of(base)
    assert {e.path for e in manifest.files} == {
        "shard-00002.faiss",
        "refine-00002.npy",
        "tombstones.npy",
        "ids.parquet",
    }
    shared = {entry["path"]: entry["sha256"] for entry in manifest.facts["base"]["files"]}
    assert manifest.facts["base"]["index_id"] == base.stages["index"].id
    assert shared == {e.path: e.sha256 for e in of_base.files if e.path != "ids.parquet"}
    assert manifest.counts["per_shard"] == [*of_base.counts["per_shard"], 70]
    assert manifest.counts["vectors"] == 920


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_refined_scores_are_those_of_todays_vectors(lake, metric):
    items = make_items(900, 16, bias=0.2)
    build(lake, items, 1, metric, refine="sq8")
    today = change(items, num_changed=0)
    run = build(lake, today, 2, metric, refine="sq8")
    ids, scores = opened(run).search(today.vectors[:40], 10)
    all_ids, all_scores = exact_top(today, today.vectors[:40], len(today), metric)
    for row in range(40):
        exact = dict(zip(all_ids[row], all_scores[row], strict=True))
        np.testing.assert_allclose(scores[row], [exact[i] for i in ids[row]], atol=0.02 * np.abs(all_scores).max())


def test_a_later_day_goes_on_from_what_stands_alone(lake):
    items = make_items(900, 16)
    base = build(lake, items, 1)
    second = change(items)
    build(lake, second, 2)
    run = build(lake, change(second, seed=8), 3)
    facts = manifest_of(run).facts
    assert facts["base"]["index_id"] == base.stages["index"].id
    assert facts["base"]["num_shards"] == 2
    assert len(opened(run)) == len(second) + 20


def test_nothing_new_and_everything_removed_that_may_be(lake):
    items = make_items(900, 16)
    build(lake, items, 1)
    run = build(lake, change(items, num_removed=50, num_changed=0, num_new=0), 2)
    assert manifest_of(run).counts["per_shard"][-1] == 0
    gone = np.setdiff1d(items.item_idx, opened(run).item_ids.item_idx)
    assert len(gone) == 50
    assert not np.isin(opened(run).search(items.vectors, 30)[0], gone).any()


def test_much_that_changed_is_built_anew(lake, capfd):
    items = make_items(900, 16)
    base = build(lake, items, 1)
    run = build(lake, change(items, num_changed=300), 2)
    assert "base" not in manifest_of(run).facts
    wanted = f"index {base.stages['index'].id} is no base: 40 new, 300 changed, 20 removed of 920 items are more than"
    assert wanted in capfd.readouterr().err


def test_of_several_models_each_goes_on_from_its_own(lake):
    ours, theirs = make_items(900, 16), make_items(900, 16, seed=77)
    base = build(lake, ours, 1)
    build(lake, theirs, 2)
    assert manifest_of(build(lake, change(ours), 3)).facts["base"]["index_id"] == base.stages["index"].id


def test_recall_that_fell_is_measured_and_built_anew(lake, capfd):
    """Coarse codes trained on one place, new items in another: their scores can hardly be told apart."""
    items = make_items(1500, 16)
    knobs = {"refine": "none", "incremental": {"max_delta_share": 1.0, "max_recall_drop": 0.05}, "m": 8}
    build(lake, items, 1, **knobs)
    far = np.random.default_rng(4).standard_normal((len(items), 16)).astype(np.float32) * 0.05 + 1
    moved = dataclasses.replace(items, vectors=np.where(np.arange(len(items))[:, None] % 2, far, items.vectors))
    run = build(lake, dataclasses.replace(moved, queries=moved.vectors), 2, **knobs)
    assert "more than index.incremental.max_recall_drop 0.05" in (log := capfd.readouterr().err)
    assert "built whole: recall@10 fell by 0." in log
    facts, folder = manifest_of(run).facts, Path(lake) / "indexes" / run.stages["index"].id
    assert "base" not in facts
    assert not list(folder.glob("*00002*.faiss")) + list(folder.glob("tombstones*"))


def test_recall_below_the_floor_is_a_reason_too(lake, monkeypatch, capfd):
    """What a delta on old quantizers misses may be reached by new ones."""
    items = make_items(900, 16)
    build(lake, items, 1)
    monkeypatch.setattr("recspark.index.job.find_drift", lambda m, config: find_drift(m, floor_of_1(config)))
    run = build(lake, change(items), 2)
    assert "built whole: recall@10 is 0." in (log := capfd.readouterr().err)
    assert "below index.min_recall" in log
    assert "base" not in manifest_of(run).facts


def floor_of_1(config):
    return config.model_copy(update={"min_recall": 1.0})


@pytest.mark.parametrize(
    ("metric", "base", "change", "message"),
    [
        ("cosine", {}, {"bias": 1.0}, "items have a bias now, the space has no column for it"),
        ("ip", {}, {"times": 9.0}, "a vector is longer than the space's radius"),
        ("l2", {"bias": 0.2}, {"bias": 9.0}, "a bias is above the largest that the space holds"),
        ("l2", {"refine": "sq8"}, {"times": 9.0}, "values lie beyond what the sq8 codes can hold"),
        ("cosine", {"kind": "hnsw"}, {}, "an hnsw graph cannot forget items"),
    ],
)
def test_what_the_base_cannot_hold_is_a_reason(lake, metric, base, change, message):
    items = make_items(300, 16, bias=base.pop("bias", 0.0))
    knobs = {"kind": "ivf_pq", "refine": "none"} | base
    run = plan_index_run(lake, **knobs)
    write_items(run, items, metric=metric)
    build_index(run)
    items = dataclasses.replace(items, metric=metric)
    found = incremental.open_base(run.lake, manifest_of(run))
    vectors, bias = items.vectors.copy(), items.bias.copy()
    vectors[5] *= change.get("times", 1.0)
    bias[5] += change.get("bias", 0.0)
    today = dataclasses.replace(items, vectors=vectors, bias=bias)
    changes = incremental.find_changes(found, today)
    assert incremental.find_rebuild_reason(found, today, changes, IncrementalIndexConfig()) == message


def test_one_bit_of_a_vector_or_bias_is_another_digest():
    items = make_items(50, 8, bias=0.1)
    before = digest_vectors(items)
    assert len(np.unique(before)) == 50
    items.vectors.view(np.uint32)[7, 3] ^= 1
    items.bias.view(np.uint32)[9] ^= 1
    assert np.flatnonzero(digest_vectors(items) != before).tolist() == [7, 9]


def damage(lake, index_id, name):
    path = Path(lake) / "indexes" / index_id / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_base_is_refused_by_name(lake):
    items = make_items(900, 16)
    base_id = build(lake, items, 1).stages["index"].id
    run = build(lake, change(items), 2)
    path = damage(lake, base_id, "shard-00001.faiss")
    with pytest.raises(IndexReadError, match=rf"{base_id}/shard-00001\.faiss: SHA-256 differs"):
        opened(run)
    path.unlink()
    with pytest.raises(IndexReadError, match=rf"{base_id}/shard-00001\.faiss: missing"):
        opened(run)
    assert find_done(run.lake, run.stages["index"]) is None


def test_a_damaged_index_is_no_base(lake, capfd):
    items = make_items(900, 16)
    base_id = build(lake, items, 1).stages["index"].id
    damage(lake, base_id, "shard-00001.faiss")
    run = build(lake, change(items), 2)
    assert "base" not in manifest_of(run).facts
    log = capfd.readouterr().err
    assert f"index {base_id} is no base: " in log
    assert "shard-00001.faiss: SHA-256 differs" in log
    assert "built whole: there is no earlier index of the same knobs to go on from" in log


def test_other_knobs_are_no_base(lake):
    items = make_items(900, 16)
    build(lake, items, 1, m=4)
    assert "base" not in manifest_of(build(lake, change(items), 2, m=8)).facts


def test_a_delta_that_does_not_fit_the_disk_is_told(lake, monkeypatch):
    items = make_items(900, 16)
    build(lake, items, 1)
    monkeypatch.setattr("recspark.index.job.free_disk_bytes", lambda folder: 100)
    with pytest.raises(IndexBuildError, match=r"of disk, .* is free where paths\.lake is"):
        build(lake, change(items), 2)
