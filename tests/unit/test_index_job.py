"""The index stage as a whole: what it publishes, repeats, keeps of a killed build, and refuses."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recspark.errors import IndexBuildError, IndexReadError, LakeError
from recspark.faults import FAULT_VARIABLE
from recspark.index import build as build_steps
from recspark.index.job import build_index
from recspark.index.store import open_index
from recspark.lake.folders import read_manifest
from tests.helpers.index_lake import exact_top, make_items, plan_index_run, write_items, write_users

KNOBS = {"kind": "ivf_pq", "num_shards": 3, "nprobe": 2, "nbits": 4}


def manifest_of(run):
    return read_manifest(run.lake, "indexes", run.stages["index"].id)


def build(lake, items, **index):
    """The run after its index stage."""
    run = plan_index_run(lake, dim=items.dim, **index)
    write_items(run, items)
    build_index(run)
    return run


def test_the_manifest_says_what_it_was_made_of(lake):
    run = build(lake, make_items(500, 16, bias=0.2), kind="ivf_pq", num_shards=3)
    manifest = manifest_of(run)
    facts = manifest.facts
    assert manifest.counts["vectors"] == 500 == sum(manifest.counts["per_shard"])
    assert manifest.inputs == {"item_embeddings": 0, "model_id": run.stages["train"].id}
    assert manifest.config["index"]["num_shards"] == 3
    assert manifest.run_id == run.run_id
    assert (facts["metric"], facts["dim"], facts["padded_dim"]) == ("cosine", 16, 20)
    assert facts["plan"]["reasons"][0] == "ivf_pq: asked for by index.kind"
    assert facts["nprobe"] == facts["effort"] in [point["effort"] for point in facts["curve"]]
    assert {"recall_at_1", "recall_at_10", "recall_at_100", "p50_ms", "p99_ms"} < set(facts["curve"][0])
    assert facts["sample"]["size"] == 500
    assert [point["refine_factor"] for point in facts["refine_curve"]] == [1, 2, 4, 8, 16]
    assert {point["effort"] for point in facts["refine_curve"]} == {facts["nprobe"]}
    names = {entry.path for entry in manifest.files}
    shards = {f"shard-0000{n}.faiss" for n in range(3)} | {f"refine-0000{n}.npy" for n in range(3)}
    assert names == shards | {"trained.faiss", "refine-scale.npy", "ids.parquet"}


def test_small_catalogues_get_a_flat_index(lake):
    run = build(lake, make_items(200, 8))
    assert manifest_of(run).facts["plan"]["kind"] == "flat"
    assert manifest_of(run).facts["recall_at_10"] == 1.0


def test_the_catalogue_may_be_one_item(lake):
    run = build(lake, make_items(1, 8))
    ids, _ = open_index(run.lake, run.stages["index"].id).search(make_items(1, 8).vectors, 2)
    assert ids[0, 1] == -1


@pytest.mark.parametrize(
    ("kind", "message"), [("ivf_flat", None), ("hnsw", None), ("ivf_pq", "set index.kind to flat")]
)
def test_one_item_is_indexed_or_refused_by_every_kind(lake, kind, message):
    items = make_items(1, 8)
    run = plan_index_run(lake, dim=8, kind=kind)
    write_items(run, items)
    if message:
        with pytest.raises(IndexBuildError, match=message):
            build_index(run)
        return
    build_index(run)
    assert open_index(run.lake, run.stages["index"].id).search(items.vectors, 2)[0].tolist() == [
        [items.item_idx[0], -1]
    ]


@pytest.mark.parametrize("knobs", [{"kind": "ivf_flat"}, {"kind": "ivf_pq", "nbits": 4, "opq": True}, {"kind": "hnsw"}])
def test_duplicates_are_items_of_their_own(lake, knobs):
    """Three different vectors among 300: fewer than lists and centroids. A graph links 32 of 100 equal ones."""
    k = 10 if knobs["kind"] == "hnsw" else 100
    items = make_items(300, 8)
    items.vectors[:] = items.vectors[:3][np.arange(300) % 3]
    run = build(lake, items, num_queries=10, **knobs)
    ids, scores = open_index(run.lake, run.stages["index"].id).search(items.vectors[:3], k, effort=32)
    assert [len(set(row.tolist()) - {-1}) for row in ids] == [k] * 3
    same = [set(items.item_idx[np.arange(300) % 3 == n].tolist()) for n in range(3)]
    assert all(set(row.tolist()) <= same[n] for n, row in enumerate(ids))
    np.testing.assert_allclose(scores, 1.0, atol=2e-3)


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "ivf_pq", "hnsw"])
def test_the_same_vectors_make_the_same_files(tmp_path, kind):
    items = make_items(900, 16, bias=0.2)
    shuffled = items.take(np.random.default_rng(3).permutation(900))
    runs = [build(tmp_path / str(n), i, kind=kind, num_shards=2) for n, i in enumerate([items, shuffled])]
    assert manifest_of(runs[0]).files == manifest_of(runs[1]).files


def test_done_is_done(lake, capfd):
    run = build(lake, make_items(200, 8))
    before = manifest_of(run)
    build_index(run)
    assert "already done" in capfd.readouterr().err
    assert manifest_of(run) == before


def test_nprobe_is_the_smallest_that_reaches_the_target(lake):
    run = build(lake, make_items(4000, 16), kind="ivf_flat", target_recall=0.9)
    facts = manifest_of(run).facts
    reaching = [p["effort"] for p in facts["curve"] if p["recall_at_10"] >= 0.9]
    assert facts["nprobe"] == min(reaching)
    assert facts["deep_nprobe"] == min(p["effort"] for p in facts["curve"] if p["recall_at_100"] >= 0.9)
    index = open_index(run.lake, run.stages["index"].id)
    assert [index.effort_for(k) for k in (1, 10, 11)] == [facts["nprobe"], facts["nprobe"], facts["deep_nprobe"]]
    assert min(p["effort"] for p in facts["curve"]) == 1 < facts["nprobe"]
    recalls = [p["recall_at_10"] for p in facts["curve"]]
    assert recalls == sorted(recalls)


def test_nprobe_is_chosen_for_users_too(lake, tmp_path):
    """Users who like several things lie between the items, where no list has its middle."""
    items = make_items(4000, 16)
    alone = manifest_of(build(tmp_path / "alone", items, kind="ivf_flat", target_recall=0.9)).facts
    run = plan_index_run(lake, kind="ivf_flat", target_recall=0.9)
    units = items.vectors / np.linalg.norm(items.vectors, axis=1, keepdims=True)
    liked = np.random.default_rng(0).integers(0, len(items), (150, 8))
    users = np.vstack([units[liked].mean(axis=1), np.zeros((5, 16))]).astype(np.float32)  # the last like nothing known
    write_items(run, items, write_users(run, users))
    build_index(run)
    facts = manifest_of(run).facts
    assert facts["user_recall_at_10"] >= 0.9
    assert facts["user_recall_at_100"] >= 0.9
    assert facts["nprobe"] > alone["nprobe"]
    lower = next(point for point in facts["curve"] if point["effort"] == alone["nprobe"])
    assert lower["recall_at_10"] == alone["recall_at_10"] > 0.9 > lower["user_recall_at_10"]
    assert alone["user_recall_at_10"] is None


def test_an_asked_nprobe_is_measured_beside_the_others(lake):
    run = build(lake, make_items(4000, 16), kind="ivf_flat", nprobe=3)
    facts = manifest_of(run).facts
    assert facts["nprobe"] == 3
    assert [p["effort"] for p in facts["curve"]] == [1, 2, 3, 4, 8, 16, 32, 64]
    assert open_index(run.lake, run.stages["index"].id).effort == 3


def test_hnsw_chooses_ef_search(lake):
    run = build(lake, make_items(900, 16), kind="hnsw", num_shards=2)
    assert manifest_of(run).facts["ef_search"] in (16, 32, 64, 128, 256, 512)


def test_recall_below_the_floor_publishes_nothing(lake):
    items = make_items(4000, 16)
    run = plan_index_run(lake, kind="ivf_pq", m=1, refine="none", nprobe=1, min_recall=0.9)
    write_items(run, items)
    with pytest.raises(
        IndexBuildError,
        match=r"recall@10 is 0\.\d+ at ivf_pq effort 1, below index\.min_recall 0\.9; .*: raise index\.nprobe, or",
    ):
        build_index(run)
    assert manifest_of(run) is None


def test_a_floor_is_refused_only_where_no_setting_reaches_it(lake):
    """The advice names nprobe only where it was given: here the sweep has tried them all."""
    items = make_items(1000, 16)
    run = plan_index_run(lake, kind="ivf_pq", m=1, nbits=4, refine="none", min_recall=0.9)
    write_items(run, items)
    with pytest.raises(IndexBuildError, match=r"nothing was published: raise index\.m; set index\.refine to fp16$"):
        build_index(run)
    facts = manifest_of(build(lake, items, kind="ivf_flat", target_recall=0.5, min_recall=0.98)).facts
    assert facts["recall_at_10"] >= 0.98


def test_the_only_item_is_built_under_a_floor(lake):
    assert manifest_of(build(lake, make_items(1, 8), min_recall=0.5)).facts["recall_at_10"] == 1.0


BUILD = """
import resource, sys
from recspark.index.steps import WHOLE
from recspark.pipeline.index_job import build_share
from tests.helpers.index_lake import plan_index_run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
build_share(plan_index_run(sys.argv[1], **eval(sys.argv[2])), WHOLE)
"""


def build_in_process(lake, fault=None, largest_file=-1, **index):
    """(exit code, log) of the stage in a process of its own."""
    environment = {**os.environ, "RECSPARK_LOG_FORMAT": "text"} | ({FAULT_VARIABLE: fault} if fault else {})
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", BUILD, str(lake), repr(index), str(largest_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=root, check=False)
    return done.returncode, done.stderr


def test_a_killed_build_keeps_what_was_finished(lake, tmp_path):
    items = make_items(600, 16, bias=0.2)
    run = plan_index_run(lake, **KNOBS)
    write_items(run, items)
    assert build_in_process(lake, "index.shard:0", **KNOBS)[0] == -signal.SIGKILL
    code, log = build_in_process(lake, "index.shard:1", **KNOBS)
    assert code == -signal.SIGKILL
    assert "shard 0 kept" in log
    assert manifest_of(run) is None
    shard = Path(lake) / "indexes" / run.stages["index"].id / "shard-00000.faiss"
    written = shard.stat().st_mtime_ns
    code, log = build_in_process(lake, **KNOBS)
    assert code == 0, log
    assert "quantizers kept from an earlier build" in log
    assert "shard 0 kept from an earlier build" in log
    assert "shard 1 kept from an earlier build" in log
    assert "shard 2 built" in log
    assert shard.stat().st_mtime_ns == written
    assert manifest_of(run).files == manifest_of(build(tmp_path / "calm", items, **KNOBS)).files


def test_a_full_disk_is_told_and_nothing_half_is_kept(lake):
    """A largest file size stands in for a disk: shards fit, refine codes do not."""
    items = make_items(600, 16)
    run = plan_index_run(lake, **KNOBS)
    write_items(run, items)
    code, log = build_in_process(lake, largest_file=6000, **KNOBS)
    assert code == 1
    assert "index: the disk is full (File too large)" in log
    assert manifest_of(run) is None
    code, log = build_in_process(lake, **KNOBS)
    assert code == 0, log
    assert "quantizers kept" in log
    assert "shard 0 built" in log
    assert len(open_index(lake, run.stages["index"].id)) == 600


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(lake, monkeypatch):
    run = plan_index_run(lake, **KNOBS)
    write_items(run, make_items(600, 16))
    monkeypatch.setattr("recspark.index.job.free_disk_bytes", lambda folder: 100)
    with pytest.raises(IndexBuildError, match=r"over 600 vectors takes about .* of disk, .* is free where paths"):
        build_index(run)
    assert not Path(lake, "indexes").exists()


def test_a_half_written_shard_is_built_again(lake, capfd):
    items = make_items(600, 16)
    run = build(lake, items, **KNOBS)
    folder = Path(lake) / "indexes" / run.stages["index"].id
    before = manifest_of(run).files
    (folder / "manifest.json").unlink()
    (folder / "shard-00001.faiss").write_bytes(b"half")
    (folder / "shard-00002.json").unlink()
    capfd.readouterr()
    build_index(run)
    log = capfd.readouterr().err
    assert "shard 0 kept" in log
    assert "shard 1 built" in log
    assert "shard 2 built" in log
    assert manifest_of(run).files == before


@pytest.mark.parametrize("name", ["shard-00001.faiss", "refine-00001.npy", "trained.faiss", "ids.parquet"])
@pytest.mark.parametrize("is_flipped", [False, True], ids=["lost", "flipped"])
def test_the_hint_of_a_damaged_file_mends_the_index(lake, capfd, name, is_flipped):
    """What open_index advises: build again where a file is lost, remove it first where its content differs."""
    run = build(lake, make_items(600, 16, bias=0.2), **KNOBS)
    index_id, before = run.stages["index"].id, manifest_of(run).files
    damaged = Path(lake) / "indexes" / index_id / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.unlink()
    if is_flipped:
        damaged.write_bytes(content)
    advice = "remove this file and run `recspark run CONF --to index` to build it again" if is_flipped else (
        "or run `recspark run CONF --to index` to build again"
    )  # fmt: skip
    with pytest.raises(IndexReadError, match=f"{name}: .*{advice}$"):
        open_index(lake, index_id)
    damaged.unlink(missing_ok=True)
    capfd.readouterr()
    build_index(run)
    log = capfd.readouterr().err
    assert log.count("kept from an earlier build") == (4 if name == "ids.parquet" else 3)
    assert manifest_of(run).files == before
    open_index(lake, index_id)


def test_a_flipped_shard_is_not_kept_when_another_is_lost(lake):
    run = build(lake, make_items(600, 16), **KNOBS)
    folder, before = Path(lake) / "indexes" / run.stages["index"].id, manifest_of(run).files
    content = bytearray((folder / "shard-00000.faiss").read_bytes())
    content[100] ^= 1
    (folder / "shard-00000.faiss").write_bytes(content)
    (folder / "shard-00002.faiss").unlink()
    build_index(run)
    assert manifest_of(run).files == before
    open_index(lake, folder.name)


def test_a_build_that_stops_leaves_no_manifest_of_the_one_before(lake):
    run = build(lake, make_items(600, 16), **KNOBS)
    (Path(lake) / "indexes" / run.stages["index"].id / "shard-00001.faiss").unlink()
    assert build_in_process(lake, "index.shard:1", **KNOBS)[0] == -signal.SIGKILL
    assert manifest_of(run) is None
    code, log = build_in_process(lake, **KNOBS)
    assert (code, log.count("kept")) == (0, 4), log


def test_new_vectors_under_the_same_key_keep_nothing(lake, capfd):
    run = build(lake, make_items(600, 16), **KNOBS)
    (Path(lake) / "indexes" / run.stages["index"].id / "manifest.json").unlink()
    write_items(run, make_items(600, 16, seed=9))
    capfd.readouterr()
    build_index(run)
    assert "kept" not in capfd.readouterr().err
    assert manifest_of(run).inputs["item_embeddings"] == 1


def test_shards_of_another_training_are_not_kept(lake):
    """A receipt that names other quantizers, as of a host that trained on its own, does not count."""
    items = make_items(600, 16)
    run = build(lake, items, **KNOBS)
    folder = Path(lake) / "indexes" / run.stages["index"].id
    receipt = json.loads((folder / "shard-00001.json").read_text())
    trained = build_steps.read_trained(str(folder), receipt["build"])
    assert (
        build_steps.read_built(str(folder), receipt["build"], trained, 1).count
        == manifest_of(run).counts["per_shard"][1]
    )
    other = dataclasses.replace(trained, fingerprint="0" * 64)
    assert build_steps.read_built(str(folder), receipt["build"], other, 1) is None
    with pytest.raises(IndexBuildError, match="shards 0, 1, 2 are not finished; run the index stage again"):
        build_steps.collect_shards(str(folder), receipt["build"], other)


def spoil(items, rows, value):
    vectors = items.vectors.copy()
    vectors[rows] = value
    return dataclasses.replace(items, vectors=vectors, queries=vectors)


def with_bias(items, value):
    return dataclasses.replace(items, bias=np.where(np.arange(len(items)) == 3, value, 0).astype(np.float32))


@pytest.mark.parametrize(
    ("items", "index", "message"),
    [
        (spoil(make_items(50, 8), [3, 7], np.nan), {}, "2 of 50 vectors hold NaN or infinite values: item-"),
        (spoil(make_items(50, 8), [3], np.inf), {"metric": "ip"}, "1 of 50 vectors hold NaN or infinite values"),
        (spoil(make_items(50, 8), range(50), 0), {}, "all 50 vectors are zero, which cosine cannot compare"),
        (
            spoil(make_items(50, 8), [3], 1e19),
            {"metric": "ip"},
            "1 of 50 vectors are so long that their squares overflow",
        ),
        (
            spoil(make_items(50, 8), [3], 1e30),
            {"metric": "l2"},
            "1 of 50 vectors are so long that their squares overflow",
        ),
        (with_bias(make_items(50, 8), 1e20), {}, "1 of 50 vectors have a bias whose square overflows float32: item-"),
        (make_items(3, 8), {"num_shards": 5}, "index.num_shards 5 is more than the 3 items"),
        (make_items(50, 8), {"kind": "ivf_flat", "nlist": 60}, "set index.nlist to at most 50"),
        (make_items(50, 8), {"kind": "ivf_pq"}, "trains 256 centroids a sub-vector, there are only 50"),
        (make_items(300, 8), {"kind": "ivf_pq", "m": 9}, "index.m 9 is more than the 8 dimensions"),
    ],
    ids=["nan", "inf", "zero", "long", "long l2", "bias", "shards", "nlist", "centroids", "m"],
)
def test_what_cannot_be_built_is_refused_and_nothing_written(lake, items, index, message):
    run = plan_index_run(lake, dim=8, **index)
    write_items(run, items)
    with pytest.raises(IndexBuildError) as caught:
        build_index(run)
    assert message in str(caught.value)
    assert not (Path(lake) / "indexes").exists()


def test_bad_vectors_are_named_by_their_first_ids(lake):
    items = spoil(make_items(50, 8), range(9), np.nan)
    run = plan_index_run(lake, dim=8)
    write_items(run, items)
    with pytest.raises(IndexBuildError) as caught:
        build_index(run)
    assert ", ".join(items.item_id[:5].to_pylist()) + ", ..." in str(caught.value)


def test_bad_query_vectors_are_refused(lake):
    items = make_items(50, 8, queries=True)
    items.queries[4] = np.nan
    run = plan_index_run(lake, dim=8)
    write_items(run, items)
    with pytest.raises(IndexBuildError, match="1 of 50 vectors have query vectors with NaN"):
        build_index(run)


def test_zero_vectors_are_left_out_under_cosine(lake):
    items = make_items(50, 8)
    items.vectors[[3, 7]] = 0
    run = build(lake, items)
    index = open_index(lake, run.stages["index"].id)
    assert len(index) == 48
    assert {3, 7}.isdisjoint(index.search(items.vectors, 48)[0].ravel().tolist())


def test_cosine_does_not_mind_long_vectors(lake):
    items = make_items(50, 8)
    items.vectors[:] *= np.float32(1e25)
    run = build(lake, items)
    wanted = exact_top(make_items(50, 8), items.vectors[:5], 10, "cosine")[0]
    np.testing.assert_array_equal(open_index(lake, run.stages["index"].id).search(items.vectors[:5], 10)[0], wanted)


def test_zero_vectors_are_fine_for_inner_products(lake):
    items = spoil(make_items(50, 8), [3], 0)
    run = build(lake, items, metric="ip")
    ids, scores = open_index(lake, run.stages["index"].id).search(items.vectors[:1], 50)
    assert sorted(ids[0].tolist()) == items.item_idx.tolist()
    assert scores[0, ids[0] == items.item_idx[3]] == pytest.approx(0, abs=1e-4)


def test_another_length_than_recorded_is_refused(lake):
    run = plan_index_run(lake, dim=8)
    write_items(run, make_items(50, 8), embedding_dim=9)
    with pytest.raises(LakeError, match="holds a vector of 8 floats, its record says embedding_dim 9"):
        build_index(run)


def test_too_little_memory_stops_before_anything_is_spent(lake, monkeypatch):
    monkeypatch.setattr("recspark.index.job.free_memory_bytes", lambda: 50_000)
    run = plan_index_run(lake, kind="ivf_flat")
    write_items(run, make_items(500, 16))
    with pytest.raises(
        IndexBuildError, match=r"needs about .* MiB to build, 0\.0 MiB is free; set index\.kind to ivf_pq"
    ):
        build_index(run)
    assert not (Path(lake) / "indexes").exists()


def test_memory_is_checked_before_the_vectors_are_read(lake, monkeypatch):
    monkeypatch.setattr("recspark.index.job.free_memory_bytes", lambda: 50_000)
    monkeypatch.setattr("recspark.index.job.read_items", lambda *_: pytest.fail("read all vectors"))
    run = plan_index_run(lake, kind="ivf_flat")
    write_items(run, make_items(500, 16))
    with pytest.raises(IndexBuildError, match=r"over 500 vectors needs about .* is free"):
        build_index(run)


def test_query_vectors_are_what_recall_is_measured_with(lake):
    items = make_items(2000, 16, queries=True)
    run = build(lake, items, kind="ivf_flat", metric="ip")
    index = open_index(run.lake, run.stages["index"].id)
    assert manifest_of(run).facts["recall_at_10"] >= 0.95
    assert index.metric == "ip"
