"""The whole chain as a user runs it: complete, repeated, killed at every hand-over, by two configs, job by job."""

import random
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.chain import (
    after_seconds,
    between_files_and_commit,
    digests,
    kill_alone,
    read_all,
    run_chain,
    run_command,
    stages_said,
    terminate_alone,
    write_conf,
)

pytestmark = [pytest.mark.integration, pytest.mark.spark]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STAGES = ["ingest", "sessions", "graph", "item_knn_graph", "walks", "train", "index", "evaluate"]


def test_a_run_reports_counts_metrics_places_and_queries(undisturbed):
    _, text = undisturbed
    assert stages_said(text, "finished") == STAGES
    for expected in ("recall@20", "popularity", "item_knn", "oracle", "where everything is:", "items near", "for user"):
        assert expected in text


def test_a_second_run_finds_everything_done(undisturbed):
    conf, _ = undisturbed
    again = run_chain(conf)
    assert again.code == 0, again.text
    assert stages_said(again.text, "already done at version") == STAGES
    assert stages_said(again.text, "finished") == []


def test_dry_run_says_what_would_be_rebuilt_and_why(undisturbed):
    conf, _ = undisturbed
    said = run_chain(conf, "walks.p=0.25", "--dry-run").text
    assert "graph           " in said
    assert "to build: config differs from the newest version: walks.p 1.0 -> 0.25" in said
    assert "to build: walks has to run first" in said
    assert said.count("done at version") == 4


def test_killed_at_every_hand_over_it_ends_with_the_same_content(undisturbed, tmp_path):
    lake = tmp_path / "lake"
    conf = write_conf(tmp_path / "run.yaml", lake)

    def kill(**how):
        ended = run_chain(conf, **how)
        assert ended.code != 0, f"{how} was never reached: {ended.text}"
        return ended.text

    kill(fault="ingest.between_tables")
    assert stages_said(kill(fault="sessions.between_tables"), "finished") == ["ingest"]
    text = kill(kill_when=between_files_and_commit(lake, "item_graph"))
    assert "graph" not in stages_said(text, "finished")
    kill(fault="walks.before_marker")
    kill(fault="train.step:9")
    text = kill(fault="index.shard:1")
    assert "resumed at step 8" in text
    assert stages_said(text, "finished") == ["train"]
    last = run_chain(conf)
    assert last.code == 0, last.text
    assert "shard 0 kept" in last.text
    assert "shard 1 kept" in last.text
    assert digests(conf) == digests(undisturbed[0])


def test_killed_at_random_times_it_ends_with_the_same_content(undisturbed, tmp_path):
    conf = write_conf(tmp_path / "run.yaml", tmp_path / "lake")
    draw, codes = random.Random(7), []
    for _ in range(3):
        codes.append(run_chain(conf, kill_when=after_seconds(draw.uniform(2, 20))).code)
    assert codes[0] == -9, "the first kill comes long before a run can end"
    last = run_chain(conf)
    assert last.code == 0, last.text
    assert digests(conf) == digests(undisturbed[0])


@pytest.mark.parametrize("end", [kill_alone, terminate_alone])
def test_a_run_whose_parent_ends_stops_and_goes_on_later(undisturbed, tmp_path, end):
    lake = tmp_path / "lake"
    shutil.copytree(Path(undisturbed[0]).parent / "lake", lake)
    conf = write_conf(tmp_path / "run.yaml", lake)
    override = "training.checkpoint_steps=200", "training.epochs=1500"
    ended = run_chain(conf, *override, kill_when=lambda: len(list(lake.glob("checkpoints/*/LATEST"))) > 1, kill=end)
    assert ended.code == (-9 if end is kill_alone else 75), ended.text
    last = run_chain(conf, *override)
    assert last.code == 0, last.text
    assert "resumed at step" in last.text
    assert stages_said(last.text, "finished") == ["train", "index", "evaluate"]


def test_an_edge_list_becomes_embeddings_and_answers(tmp_path):
    """Two cliques with one bridge: a node's neighbours are those of its own clique."""
    edges = tmp_path / "edges.csv"
    cliques = [(f"{c}{i}", f"{c}{j}") for c in "ab" for i in range(8) for j in range(i)]
    edges.write_text("src,dst\n" + "".join(f"{s},{d}\n" for s, d in [*cliques, ("a0", "b0")]))
    source = {"kind": "edges", "path": str(edges), "format": "csv", "directed": False}
    conf = write_conf(
        tmp_path / "run.yaml", tmp_path / "lake", source=source, clean={}, index={"kind": "flat"},
        walks={"num_walks": 40, "walk_length": 10},
    )  # fmt: skip
    done = run_chain(conf)
    assert done.code == 0, done.text
    assert stages_said(done.text, "not applicable: an edge list has no users") == ["sessions", "evaluate"]
    assert read_all(conf, "train", "item_embeddings").num_rows == 16
    asked = run_command([sys.executable, "-m", "recspark.cli", "query", str(conf), "--item", "a3", "-k", "5"])
    assert [line.split()[2][0] for line in asked.text.splitlines()[1:]] == ["a"] * 5


def test_what_is_trained_answers_after_its_source_has_changed(undisturbed, tmp_path):
    events = tmp_path / "events"
    events.mkdir()
    rows = [f"u{u},i{(u + k) % 9},2026-0{1 + k % 3}-0{1 + k}T0{k}:00:00Z" for u in range(30) for k in range(6)]
    (events / "a.csv").write_text("user_id,item_id,ts\n" + "\n".join(rows) + "\n")
    source = {"kind": "files", "path": str(events), "format": "csv", "columns": {"ts": "ts"}}
    split = {"kind": "time", "cut": "2026-03-01"}
    conf = write_conf(
        tmp_path / "run.yaml", tmp_path / "lake", source=source, split=split, index={"kind": "flat"},
        sessions={"gap_seconds": 10_000_000, "max_span_seconds": 100_000_000},
    )  # fmt: skip
    done = run_chain(conf, "--to", "train")
    assert done.code == 0, done.text
    (events / "b.csv").write_text("user_id,item_id,ts\nu1,i1,2026-01-01T00:00:00Z\n")
    asked = run_command([sys.executable, "-m", "recspark.cli", "query", str(conf), "--item", "i1", "-k", "2"])
    assert asked.code == 0, asked.text
    job = run_command([sys.executable, str(ROOT / "jobs/evaluate.py"), str(conf)])
    assert job.code == 0, job.text
    assert "to build: its source or an earlier stage differs" in run_chain(conf, "--dry-run").text


@pytest.mark.parametrize("is_flipped", [False, True], ids=["lost", "flipped"])
def test_following_the_hint_mends_a_damaged_index(undisturbed, tmp_path, is_flipped):
    """`query` and `run` refuse the file; the very command they print (after the removal it asks for) mends it."""
    lake = tmp_path / "lake"
    shutil.copytree(Path(undisturbed[0]).parent / "lake", lake)
    conf = write_conf(tmp_path / "run.yaml", lake)
    query = [sys.executable, "-m", "recspark.cli", "query", str(conf), "--item", "i00000"]
    asked, before = run_command(query), digests(conf)
    (shard,) = lake.glob("indexes/*/shard-00001.faiss")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.unlink()
    if is_flipped:
        shard.write_bytes(content)
    refused = run_command(query)
    assert refused.code == 2, refused.text
    command = re.search(r"`recspark run (.*)`", refused.text)[1]
    assert command == f"{conf} --to index"
    if is_flipped:
        assert f"{shard}: SHA-256 differs" in refused.text
        assert "remove this file and run" in refused.text
        finished = run_chain(conf)  # sizes agree, so all is done; its own three queries find the damage
        assert finished.code == 2, finished.text
        assert finished.text.splitlines()[-1] == refused.text.splitlines()[-1]
        shard.unlink()
    said = run_chain(conf, "--dry-run").text
    assert f"to build: indexes/{shard.parent.name}: {shard.name} is missing" in said
    mended = run_chain(*command.split())
    assert mended.code == 0, mended.text
    assert stages_said(mended.text, "has to be built again: ") == ["index"]
    assert stages_said(mended.text, "finished") == ["index"]
    assert run_command(query).text == asked.text
    assert digests(conf) == before


def test_a_stopped_run_names_the_stage_and_those_not_started(tmp_path):
    conf = write_conf(tmp_path / "run.yaml", tmp_path / "lake", vocabulary={"min_item_events": 1_000_000})
    ended = run_chain(conf, "--to", "train")
    assert ended.code == 2, ended.text
    last = "stopped: sessions: the process ended with code 2; not started: graph, item_knn_graph, walks, train"
    assert ended.text.splitlines()[-1] == last


def test_two_configs_on_one_lake_keep_their_own_results(undisturbed, tmp_path):
    lake = tmp_path / "lake"
    shutil.copytree(Path(undisturbed[0]).parent / "lake", lake)
    conf = write_conf(tmp_path / "run.yaml", lake)
    before, query = digests(conf), [sys.executable, "-m", "recspark.cli", "query", str(conf), "--item", "i00000"]
    asked = run_command(query)
    assert asked.code == 0, asked.text
    other = run_chain(conf, "walks.p=0.1", "walks.q=4")
    assert other.code == 0, other.text
    assert stages_said(other.text, "finished") == ["walks", "train", "index", "evaluate"]
    assert digests(conf) == before
    assert digests(conf, "walks.p=0.1", "walks.q=4")["walks.walks"] != before["walks.walks"]
    assert run_command(query).text == asked.text
    assert run_command([*query, "walks.p=0.1", "walks.q=4"]).text != asked.text
    assert not read_all(conf, "evaluate", "metrics").equals(
        read_all(conf, "evaluate", "metrics", "walks.p=0.1", "walks.q=4")
    )


def test_jobs_run_under_spark_submit_and_torchrun(undisturbed, tmp_path):
    lake = tmp_path / "lake"
    shutil.copytree(Path(undisturbed[0]).parent / "lake", lake)
    shutil.rmtree(lake / "tables" / "sessions")
    conf = write_conf(tmp_path / "run.yaml", lake)
    submit = [str(BIN / "spark-submit"), "--properties-file", str(ROOT / "conf/spark/local.properties")]
    submitted = run_command([*submit, str(ROOT / "jobs/build_sessions.py"), str(conf)])
    assert submitted.code == 0, submitted.text
    assert read_all(conf, "sessions", "sessions").num_rows == read_all(undisturbed[0], "sessions", "sessions").num_rows
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    override = "training.backend=torch"
    trained = run_command([*torchrun, str(ROOT / "jobs/train.py"), str(conf), override])
    assert trained.code == 0, trained.text
    found = read_all(conf, "train", "item_embeddings", override)
    assert found.num_rows > 0
    missing = run_command([*submit, str(ROOT / "jobs/build_graph.py"), str(conf), "clean.max_user_events=999"])
    assert missing.code == 2
    assert f"run `recspark run {conf} clean.max_user_events=999 --to sessions` first" in missing.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walks.p=-1", "index.nlst=3"], "has 2 problems:\n  walks.p: must be > 0, got -1\n  index.nlst: unknown key"),
        (["--from", "nowhere"], "stage nowhere: no such stage; it has ingest, sessions"),
        (["--from", "train", "--to", "graph"], "--from train comes after --to graph"),
        (
            ["source.kind=files", "source.format=csv", "source.path=/none", "source.columns.ts=t"],
            "source.path /none: no such file or folder",
        ),
        (["paths.lake=ftp://x/y"], "scheme 'ftp' is not one of"),
    ],
)
def test_wrong_input_ends_with_2_and_one_message(tmp_path, arguments, message):
    conf = write_conf(tmp_path / "run.yaml", tmp_path / "lake")
    ended = run_chain(conf, *arguments)
    assert ended.code == 2
    assert message in ended.text
    assert "Traceback" not in ended.text
    assert not (tmp_path / "lake").exists()


def test_unknown_ids_get_close_matches(undisturbed):
    conf, _ = undisturbed
    for option, unknown, near in (("--item", "i0001", "close: i00"), ("--user", "u00000", "close: u000")):
        ended = run_command([sys.executable, "-m", "recspark.cli", "query", str(conf), option, unknown])
        assert ended.code == 2
        assert near in ended.text
        assert "Traceback" not in ended.text


def test_a_baseline_can_be_the_model_alone(undisturbed):
    conf, _ = undisturbed
    done = run_chain(conf, "model.kind=rp3beta", "baselines.names=[popularity, ease]")
    assert done.code == 0, done.text
    assert stages_said(done.text, "finished") == ["evaluate"]
    assert stages_said(done.text, "not applicable: rp3beta ranks lists without vectors") == ["train", "index"]
    assert "x the recall@20 of popularity" in done.text
    asked = run_command(
        [sys.executable, "-m", "recspark.cli", "query", str(conf), "model.kind=rp3beta", "--item", "i1"]
    )
    assert (asked.code, "ranks lists without vectors" in asked.text) == (2, True)


def test_a_model_in_closed_form_is_indexed_evaluated_and_asked(undisturbed):
    conf, _ = undisturbed
    # Walks and ranks are of no use to it: two processes are not started.
    done = run_chain(conf, "model.kind=ppmi_svd", "training.num_processes=2", "baselines.names=[rp3beta, spectral]")
    assert done.code == 0, done.text
    assert stages_said(done.text, "finished") == ["train", "index", "evaluate"]
    assert stages_said(done.text, "not needed: ppmi_svd learns from no walks") == ["walks"]
    for expected in ("recall@20", "spectral", "oracle", "items near", "for user"):
        assert expected in done.text
