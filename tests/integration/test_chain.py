"""The whole chain as a user runs it: complete, repeated, killed at every hand-over, by two configs, job by job."""

import random
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.chain import (
    after_seconds,
    between_files_and_commit,
    digests,
    read_all,
    run_chain,
    run_command,
    stages_said,
    write_conf,
)

pytestmark = [pytest.mark.integration, pytest.mark.spark]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STAGES = ["ingest", "sessions", "graph", "item_knn_graph", "walks", "train", "index", "evaluate"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(config, what it said) of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    conf = write_conf(folder / "run.yaml", folder / "lake")
    done = run_chain(conf)
    assert done.code == 0, done.text
    return conf, done.text


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
    draw = random.Random(7)
    for _ in range(3):
        run_chain(conf, kill_when=after_seconds(draw.uniform(2, 25)))
    last = run_chain(conf)
    assert last.code == 0, last.text
    assert digests(conf) == digests(undisturbed[0])


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
    assert "run `recspark run CONF --to sessions` first" in missing.text


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
    for option, unknown, near in (("--item", "i0001", "i0001"), ("--user", "u00000", "u00000")):
        ended = run_command([sys.executable, "-m", "recspark.cli", "query", str(conf), option, unknown])
        assert ended.code == 2
        assert f"{near}" in ended.text
        assert "Traceback" not in ended.text
