"""Executors as processes of their own: the graph has to be shipped, and a task is tried again when its worker dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from recspark.walks.bias import make_bias
from recspark.walks.graph_files import write_graph
from recspark.walks.starts import find_starts
from recspark.walks.walk_graph import build_walk_graph
from recspark.walks.workers import walk_batches
from tests.helpers.walks import chunk_numbers, ring_with_chords, sha_of_walks
from tests.helpers.walks_cluster import NUM_CHUNKS, make_task

pytestmark = pytest.mark.spark
ROOT = str(Path(__file__).resolve().parents[2])


def link_spark(home: Path) -> str:
    """A Spark home of links: its workers keep their folders in it, which is no thing to do to an installation."""
    home.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():
        (home / entry.name).symlink_to(entry)
    return str(home)


def test_workers_that_die_once_change_no_walk(tmp_path):
    environment = os.environ | {"SPARK_HOME": link_spark(tmp_path / "spark"), "PYTHONPATH": ROOT}
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.walks_cluster", "local-cluster[2,1,512]", str(tmp_path)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    graph, bias = ring_with_chords(), make_bias(0.5, 2.0)
    files = write_graph("graph-here", build_walk_graph(graph, bias), find_starts(graph.indptr), str(tmp_path))
    expected = sha_of_walks(walk_batches(chunk_numbers(NUM_CHUNKS), make_task(files)))
    assert found == {
        "shipped": True,
        "replicated": expected,
        "sharded": expected,
        "died": ["replicated", "build_batches", "begin_batches", "burst_batches", "finished_batches"],
    }
