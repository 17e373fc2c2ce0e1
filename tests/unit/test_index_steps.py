"""A build shared by processes: who does what, what they wait for, and that any of them may be killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recspark.errors import IndexBuildError, SetupError
from recspark.faults import FAULT_VARIABLE
from recspark.index.job import build_index
from recspark.index.steps import WHOLE, Share, parse_shards, read_share, read_step, wait_until_there
from recspark.lake.folders import read_manifest
from recspark.pipeline.index_job import take_options
from tests.helpers.index_lake import make_items, plan_index_run, write_items

KNOBS = {"kind": "ivf_pq", "num_shards": 5, "nprobe": 2, "nbits": 4, "num_queries": 20}


def test_ranks_own_every_shard_once():
    for num_shards in range(1, 9):
        for size in range(1, 5):
            shares = [read_share({"RANK": str(rank), "WORLD_SIZE": str(size)}) for rank in range(size)]
            owned = [shard for share in shares for shard in share.shards_of(num_shards)]
            assert sorted(owned) == list(range(num_shards))
            assert [share.trains for share in shares] == [True] + [False] * (size - 1)
            assert [share.finishes for share in shares] == [True] + [False] * (size - 1)


def test_launchers_say_who_one_is():
    assert read_share({}) == WHOLE
    assert read_share({"RANK": "0", "WORLD_SIZE": "1"}).is_whole
    assert read_share({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}) == Share(False, False, 2, 3)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "RANK is '0' and WORLD_SIZE '': expected a number from 0 on, and how many"),
        ({"RANK": "3", "WORLD_SIZE": "3"}, "RANK is '3' and WORLD_SIZE '3'"),
        ({"JOB_COMPLETION_INDEX": "1"}, "set JOB_COMPLETIONS for every process"),
        ({"JOB_COMPLETION_INDEX": "x", "JOB_COMPLETIONS": "2"}, "JOB_COMPLETION_INDEX is 'x'"),
    ],
)
def test_half_a_launcher_is_refused(environment, message):
    with pytest.raises(SetupError) as caught:
        read_share(environment)
    assert message in str(caught.value)


def test_steps_by_name():
    assert read_step("train", None) == Share(True, False, shards=())
    assert read_step("finish", None) == Share(False, True, shards=())
    assert read_step("add", "0-2,7,1") == Share(False, False, shards=(0, 1, 2, 7))
    assert parse_shards("3") == (3,)


@pytest.mark.parametrize(
    ("step", "shards", "message"),
    [
        ("sweep", None, "--step sweep: no such step; there are train, add, finish"),
        ("add", None, "--shards goes with --step add, and is needed there"),
        ("train", "0", "--shards goes with --step add, and is needed there"),
        ("add", "0-2,x", "'x' is no shard and no range; expected such as 0-3,7"),
        ("add", "4-2", "'4-2' is no shard and no range"),
    ],
)
def test_wrong_steps_are_told(step, shards, message):
    with pytest.raises(SetupError) as caught:
        read_step(step, shards)
    assert message in str(caught.value)


def test_options_stand_anywhere_among_the_words():
    assert take_options(["--step", "add", "conf.yaml", "--shards=0-3", "index.m=8"]) == (
        {"--step": "add", "--shards": "0-3"},
        ["conf.yaml", "index.m=8"],
    )
    with pytest.raises(SetupError, match="--step: needs a value"):
        take_options(["conf.yaml", "--step"])
    with pytest.raises(SetupError, match="--shards: goes with --step add"):
        take_options(["conf.yaml", "--shards", "3"])


def test_waiting_ends_with_what_is_missing(monkeypatch):
    """The clock starts anew when something comes: three things that come one by one, then none."""
    monkeypatch.setattr("recspark.index.steps._POLL_SECONDS", 0.02)
    left = iter(["shards 1, 2, 3", "shards 2, 3"] + ["shards 3"] * 1000)
    with pytest.raises(IndexBuildError, match=r"x: waited 0\.1 seconds for shards 3; start the process that makes it"):
        wait_until_there(lambda: next(left), "x", 0.1)
    wait_until_there(lambda: None, "x", 0.1)


@pytest.fixture
def waiting(lake):
    """A run whose processes lose patience after a second."""
    run = plan_index_run(lake, timeout_seconds=1, **KNOBS)
    write_items(run, make_items(600, 16, bias=0.2))
    return run


def test_who_waits_in_vain_names_the_step(waiting):
    with pytest.raises(IndexBuildError, match=r"waited 1 seconds for the training \(--step train, or rank 0\)"):
        build_index(waiting, Share(False, False, 1, 3))
    build_index(waiting, read_step("train", None))
    build_index(waiting, read_step("add", "0-2,4"))
    with pytest.raises(IndexBuildError, match=r"waited 1 seconds for shards 3 \(--step add, or the ranks that own"):
        build_index(waiting, read_step("finish", None))
    with pytest.raises(IndexBuildError, match=r"--shards 5, 6: index\.num_shards is 5, so they go from 0 to 4"):
        build_index(waiting, read_step("add", "3,5,6"))
    assert read_manifest(waiting.lake, "indexes", waiting.stages["index"].id) is None


def test_steps_by_hand_make_the_same_index(waiting, tmp_path, capfd):
    whole = plan_index_run(tmp_path / "whole", **KNOBS)
    write_items(whole, make_items(600, 16, bias=0.2))
    build_index(whole)
    for step, shards in (("train", None), ("add", "3-4"), ("add", "0-2,3"), ("finish", None), ("add", "1")):
        build_index(waiting, read_step(step, shards))
    log = capfd.readouterr().err
    assert log.count("shard 3 kept") == 1
    assert "already done" in log
    manifests = [read_manifest(run.lake, "indexes", run.stages["index"].id) for run in (whole, waiting)]
    assert manifests[0].files == manifests[1].files


SHARE = """
import os, sys
from recspark.index.steps import read_share
from recspark.pipeline.index_job import build_share
from tests.helpers.index_lake import plan_index_run
build_share(plan_index_run(sys.argv[1], **eval(sys.argv[2])), read_share(os.environ))
"""


def start_rank(lake, rank, fault=None):
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "3", "RECSPARK_LOG_FORMAT": "text"}
    environment |= {FAULT_VARIABLE: fault} if fault else {}
    command = [sys.executable, "-c", SHARE, str(lake), repr(KNOBS)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=root)


def test_three_processes_build_what_one_does_though_one_is_killed(lake, tmp_path):
    items = make_items(600, 16, bias=0.2)
    run, whole = plan_index_run(lake, **KNOBS), plan_index_run(tmp_path / "whole", **KNOBS)
    write_items(run, items)
    write_items(whole, items)
    ranks = [start_rank(lake, rank, "index.shard:1" if rank == 1 else None) for rank in range(3)]
    assert ranks[1].wait(timeout=60) == -signal.SIGKILL
    again = start_rank(lake, 1)
    logs = [process.communicate(timeout=60)[1] for process in (ranks[0], again, ranks[2])]
    assert [process.returncode for process in (ranks[0], again, ranks[2])] == [0, 0, 0], logs
    assert "shard 1 kept from an earlier build" in logs[1]
    assert "shard 4 built" in logs[1]
    assert "shard 2 built" in logs[2]
    build_index(whole)
    manifests = [read_manifest(r.lake, "indexes", r.stages["index"].id) for r in (run, whole)]
    assert manifests[0].files == manifests[1].files
