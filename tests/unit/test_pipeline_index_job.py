"""`jobs/build_index.py` from its command line: steps by name, a launcher's variables, errors of any rank."""

import sys

import pytest

from recspark.index.store import open_index
from recspark.pipeline.index_job import run_index_job
from recspark.pipeline.open_run import open_run
from tests.helpers.index_lake import make_items, write_items

CONF = """
source: {kind: synthetic, synthetic: {num_users: 10, num_items: 10}}
split: {kind: time, cut: '2026-01-20'}
model: {embedding_dim: 16}
index: {kind: ivf_flat, num_shards: 3, num_queries: 20, timeout_seconds: 1}
"""


@pytest.fixture
def run(lake, tmp_path):
    """A run whose model is trained, by the config that its ``conf`` names."""
    path = tmp_path / "run.yaml"
    path.write_text(f"paths: {{lake: {lake}}}\n{CONF}")
    run = open_run(path)
    write_items(run, make_items(300, 16))
    return run


def call(monkeypatch, tmp_path, *words, **environment):
    """The job's exit code."""
    monkeypatch.setattr(sys, "argv", ["jobs/build_index.py", *words, str(tmp_path / "run.yaml")])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        run_index_job("what it does")
    return ended.value.code


def test_steps_by_name_build_the_index(run, monkeypatch, tmp_path):
    assert call(monkeypatch, tmp_path, "--step", "train") == 0
    assert call(monkeypatch, tmp_path, "--step=add", "--shards=0-2") == 0
    assert call(monkeypatch, tmp_path, "--step", "finish") == 0
    assert len(open_index(run.lake, run.stages["index"].id)) == 300


def test_pods_of_an_indexed_job_build_the_index(run, monkeypatch, tmp_path):
    call(monkeypatch, tmp_path, "--step", "train")
    for pod in ("1", "2", "0"):
        assert call(monkeypatch, tmp_path, JOB_COMPLETION_INDEX=pod, JOB_COMPLETIONS="3") == 0
    assert len(open_index(run.lake, run.stages["index"].id)) == 300


def test_every_rank_says_what_is_wrong(run, monkeypatch, tmp_path, capfd):
    assert call(monkeypatch, tmp_path, RANK="1", WORLD_SIZE="2") == 2
    assert "error: " in (said := capfd.readouterr().err)
    assert "waited 1 seconds for the training (--step train, or rank 0)" in said
    assert call(monkeypatch, tmp_path, "--step", "sweep") == 2
    assert "--step sweep: no such step; there are train, add, finish" in capfd.readouterr().err
    assert call(monkeypatch, tmp_path, "--step") == 2
