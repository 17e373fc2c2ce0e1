"""Processes that die, a full disk, two runs at once: nothing is half there or double, and the next run goes on."""

import json
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from recspark.graph.job import build_graph
from recspark.lake.arrow import find_done
from recspark.pipeline.open_run import open_run
from recspark.sessions.job import build_sessions
from recspark.sources.job import ingest
from tests.helpers import dying_workers
from tests.helpers.chain import run_chain, stages_said, write_conf
from tests.helpers.faults import content, count_markers

pytestmark = [pytest.mark.integration, pytest.mark.spark]

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ingest", "sessions", "graph")
MOST_BYTES = 96 << 10
"""Of a file: Spark's and Delta's logs are smaller, the events of the tiny chain are larger."""


@pytest.fixture
def expected(spark, tmp_path):
    """What the tests' own Spark makes of the same config, undisturbed, in another lake."""
    run = open_run(write_conf(tmp_path / "calm.yaml", tmp_path / "calm"))
    ingest(spark, run)
    build_sessions(spark, run)
    build_graph(spark, run)
    return content(run, STAGES)


def fill_disk(group: int) -> None:
    """From now on no process of the group can write a file of more than `MOST_BYTES`."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        with suppress(ProcessLookupError):
            if os.getpgid(int(process)) == group:
                resource.prlimit(int(process), resource.RLIMIT_FSIZE, (MOST_BYTES, resource.RLIM_INFINITY))


def test_a_full_disk_a_kill_and_two_runs_at_once_end_with_the_same_content(expected, tmp_path):
    conf = write_conf(tmp_path / "run.yaml", tmp_path / "lake")
    run = open_run(conf)

    begun = tmp_path / "lake" / "tables" / "quarantine" / "_delta_log" / f"{0:020}.json"
    full = run_chain(conf, "--to", "graph", kill_when=begun.exists, kill=fill_disk)
    assert full.code == 2, full.text
    assert "error: ingest: the disk is full (File too large): paths.lake " in full.text
    assert "Traceback" not in full.text
    assert find_done(run.lake, run.stages["ingest"]) is None

    killed = run_chain(conf, "--to", "graph", fault="graph.before_commit")
    assert killed.code != 0, killed.text
    assert stages_said(killed.text, "finished") == ["ingest", "sessions"]
    assert find_done(run.lake, run.stages["graph"]) is None

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run_chain(conf, "--to", "graph"), range(2)))
    late = [ended for ended in both if ended.code != 0]  # one that comes while the other builds is told so
    assert len(late) < 2, both[0].text + both[1].text
    assert all(ended.code == 2 and "is building it under the same key" in ended.text for ended in late), late
    assert [count_markers(run, stage) for stage in STAGES] == [1, 1, 1]
    assert content(run, STAGES) == expected

    other = "graph.num_neighbours=7"
    killed = run_chain(conf, other, "--to", "graph", fault="graph.after_commit")
    assert killed.code != 0, killed.text
    again = run_chain(conf, other, "--to", "graph")
    assert again.code == 0, again.text
    assert stages_said(again.text, "already done at version") == list(STAGES)
    assert count_markers(open_run(conf, [other]), "graph") == 1


def test_workers_that_die_once_in_any_kernel_change_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.dying_workers", "local[2,4]", str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["died"] == [dying_workers.GENERATOR, *(name for _, name in dying_workers.KERNELS)]
    assert len(found["calm"]) > 8
    assert found["mortal"] == found["calm"]
