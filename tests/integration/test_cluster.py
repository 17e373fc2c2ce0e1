"""The Spark side on two executors, the package shipped by --py-files: the tables are those of a run in one process."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pyspark
import pytest

from recspark.graph.job import build_graph
from recspark.lake.java import find_java
from recspark.pipeline.open_run import open_run
from recspark.sessions.job import build_sessions
from recspark.sources.job import ingest
from recspark.walks.job import build_walks
from tests.helpers.chain import stages_said, write_conf
from tests.helpers.faults import content

pytestmark = [pytest.mark.integration, pytest.mark.spark]

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ingest", "sessions", "graph", "walks")
JOB = """
import sys
import recspark
from recspark.pipeline.side import main
assert ".zip" in recspark.__file__, recspark.__file__
sys.exit(main(["ingest,sessions,graph,walks", sys.argv[1]]))
"""
# Copies of a task are started as soon as one is slower than another.
EAGER = {"spark.speculation": "true", "spark.speculation.interval": "50ms", "spark.speculation.multiplier": "1.01",
         "spark.speculation.quantile": "0.1", "spark.speculation.minTaskRuntime": "10ms"}  # fmt: skip


def bare_python(folder: Path) -> Path:
    """A Python that has our packages, but for recspark itself: no one finds that but in what is shipped."""
    venv.create(folder, with_pip=False)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (place / "ours.pth").write_text(sysconfig.get_path("purelib"))  # .pth files in there are not followed
    python = folder / "bin" / "python"
    command = [python, "-I", "-c", "import numba, recspark"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "No module named 'recspark'" in found.stderr, found.stderr
    return python


def test_two_executors_with_a_shipped_package_make_the_tables_of_one_process(spark, tmp_path):
    calm = open_run(write_conf(tmp_path / "calm.yaml", tmp_path / "calm"))
    for work in (ingest, build_sessions, build_graph, build_walks):
        work(spark, calm)

    python = str(bare_python(tmp_path / "venv"))
    package = shutil.make_archive(str(tmp_path / "recspark"), "zip", ROOT, "recspark")
    job = tmp_path / "job.py"
    job.write_text(JOB)
    conf = write_conf(tmp_path / "run.yaml", tmp_path / "lake")
    settings = EAGER | {"spark.executor.memory": "1g"}
    command = [
        f"{Path(pyspark.__file__).parent}/bin/spark-submit", "--master", "local-cluster[2,1,1024]",
        "--properties-file", f"{ROOT}/conf/spark/local.properties", "--py-files", package,
        *(word for name, value in settings.items() for word in ("--conf", f"{name}={value}")), str(job), str(conf),
    ]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    places = {"PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python, "JAVA_HOME": find_java().home}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=kept | places | {"PATH": path}, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert stages_said(done.stdout + done.stderr, "finished") == list(STAGES)
    assert content(open_run(conf), STAGES) == content(calm, STAGES)
