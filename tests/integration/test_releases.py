"""From a finished run to what is served, by commands as a user types them, and by the job on Spark."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from recspark.lake.arrow import TableAt, read_record, read_table
from recspark.releases.reader import open_release
from tests.helpers.chain import run_command, write_conf

pytestmark = [pytest.mark.integration, pytest.mark.spark]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def conf(undisturbed, tmp_path):
    """The config, with section release, of a copy of the undisturbed run's lake."""
    shutil.copytree(Path(undisturbed[0]).parent / "lake", tmp_path / "lake")
    return write_conf(tmp_path / "run.yaml", tmp_path / "lake", release={})


def command(*words):
    """A command that succeeds; what it said."""
    done = run_command([sys.executable, "-m", "recspark.cli", *map(str, words)])
    assert done.code == 0, done.text
    return done.text


def rows_at(lake, said):
    """user_id -> list, at the version that a command or job named."""
    version = int(re.findall(r'version"?:? (\d+)', said)[-1])
    table = TableAt(str(lake), "recommendations", version, read_record(str(lake), "recommendations", version))
    rows = read_table(table, filters=[("purpose", "=", "serve")]).to_pylist()
    return {row["user_id"]: (row["item_ids"], row["scores"]) for row in rows}


def test_a_finished_run_is_released_served_and_listed(conf, tmp_path):
    lake = tmp_path / "lake"
    published = command("run", conf)
    assert "releases/" in published
    assert "READY  " in command("release", "list", conf)
    assert " is active" in command("release", "activate", lake)
    assert "all as it was published" in command("verify", "release", lake)
    asked = "recommend.release=true", "recommend.k=7"
    by_command = rows_at(lake, command("recommend", conf, *asked))
    submit = [str(BIN / "spark-submit"), "--properties-file", str(ROOT / "conf/spark/local.properties")]
    job = [*submit, str(ROOT / "jobs/recommend.py"), str(conf), *asked, "recommend.quota_depth=6"]
    by_spark = run_command(job)  # under another key: else the lists of the command would be found
    assert by_spark.code == 0, by_spark.text
    assert rows_at(lake, by_spark.text) == by_command
    with open_release(str(lake)) as release:
        assert len(by_command) > 250
        assert len(release) == 150
    command("lake", "vacuum", lake, "--days", "1")
    assert "nothing" not in command("lake", "gc", lake, "--keep", "1")
    assert "all as it was published" in command("release", "verify", lake)
