"""The entries of one stage: their usage, and what is known before an engine starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recspark.config import RunConfig, plan_run
from recspark.contracts.tables import ITEM_EMBEDDINGS, SESSIONS
from recspark.errors import LakeError
from recspark.lake.arrow import write_table
from recspark.pipeline import side

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.py"))
ENGINES = ("pyspark", "torch", "faiss", "numba", "pandas")
LOOK = """
import runpy, sys
path, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = path
try:
    runpy.run_path(path, run_name="__main__")
finally:
    print("loaded", sorted(set(%r) & set(sys.modules)), file=sys.stderr)
"""


def run_job(job: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A job's process; its last line on stderr names the engines it has loaded."""
    command = [sys.executable, "-c", LOOK % (ENGINES,), str(job), *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60)


def plan(lake: str, **sections):
    config = {"split": {"kind": "time", "cut": "2026-01-01"}, "paths": {"lake": lake}, **sections}
    return plan_run(RunConfig.model_validate(config), {"fingerprint": "f00", "kind": "synthetic"})


def test_there_are_jobs():
    assert len(JOBS) == 12


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_job_asked_for_help_says_how_it_is_started_and_starts_nothing(job):
    done = run_job(job, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {job} CONF [key=value ...]\n\n")
    assert f"jobs/{job.name} conf/quickstart.yaml" in done.stdout
    assert done.stderr == "loaded []\n"


def test_a_job_without_a_config_says_the_same_as_an_error():
    done = run_job(ROOT / "jobs/train.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"usage: {ROOT}/jobs/train.py CONF [key=value ...]\n\nwalks or sessions -> ")
    assert done.stderr.endswith("loaded []\n")


def test_of_several_ranks_one_speaks():
    done = run_job(ROOT / "jobs/train.py", RANK="1")
    assert (done.returncode, done.stderr) == (2, "loaded []\n")


def test_a_stage_before_that_is_not_finished_is_told_before_spark_is_loaded(tmp_path):
    conf = tmp_path / "run.yaml"
    conf.write_text(f"split: {{kind: time, cut: 2026-01-01}}\npaths: {{lake: {tmp_path}/lake}}\n")
    done = run_job(ROOT / "jobs/build_graph.py", str(conf), "walks.p=2")
    assert done.returncode == 2
    assert "tables/sessions: no version for this config (stage sessions, key " in done.stderr
    assert f"run `recspark run {conf} walks.p=2 --to sessions` first" in done.stderr
    assert done.stderr.endswith("loaded []\n")


def finish(run, stage: str, spec=SESSIONS) -> None:
    write_table(run.lake, spec, spec.schema.empty_table(), run.record(stage, is_marker=True))


def test_stages_wait_for_those_of_other_processes_only(lake, monkeypatch):
    """sessions is finished; walks reads graph, which runs before it in the same process."""
    run, ran = plan(lake), []
    finish(run, "sessions")
    monkeypatch.setattr(side, "_run_spark_stages", lambda _, names: ran.append(list(names)))
    side.run_stages(run, ["graph", "walks"])
    assert ran == [["graph", "walks"]]
    with pytest.raises(LakeError, match=r"tables/item_graph: no version for this config \(stage graph, key "):
        side.run_stages(run, ["walks"])


def test_engine_stages_are_told_of_tables_and_left_to_find_a_missing_index(lake, monkeypatch):
    run, ran = plan(lake, baselines={"names": ["popularity"]}, evaluate={"search": "index"}), []
    monkeypatch.setitem(side._ENGINE_STAGES, "evaluate", ran.append)
    with pytest.raises(LakeError, match=r"tables/item_embeddings: no version .* `recspark run CONF --to train` first"):
        side.run_stages(run, ["evaluate"])
    assert ran == []
    finish(run, "train", ITEM_EMBEDDINGS)
    side.run_stages(run, ["evaluate"])
    assert ran == [run]


def test_the_start_and_the_end_of_a_stage_are_logged(lake, monkeypatch, capsys):
    monkeypatch.setenv("RECSPARK_LOG_FORMAT", "text")
    monkeypatch.setitem(side._ENGINE_STAGES, "train", lambda run: print("working", file=sys.stderr))
    run = plan(lake, training={"corpus": "sessions"})
    finish(run, "sessions")
    side.run_stages(run, ["train"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["train      started", "working", "train      finished"]
