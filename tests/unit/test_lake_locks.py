"""One process a stage key; a lock dies with its holder."""

import subprocess
import sys
from pathlib import Path

import pytest

from recspark.config import RunConfig, plan_run
from recspark.errors import LakeError
from recspark.lake.locks import stage_lock

HOLD = """
import sys, time
from recspark.config import RunConfig, plan_run
from recspark.lake.locks import stage_lock
config = RunConfig.model_validate({"split": {"kind": "time", "cut": "2026-01-01"}})
with stage_lock(sys.argv[1], plan_run(config, {"fingerprint": "f"}).stages["train"]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def stages():
    return plan_run(
        RunConfig.model_validate({"split": {"kind": "time", "cut": "2026-01-01"}}), {"fingerprint": "f"}
    ).stages


@pytest.fixture
def holder(lake):
    process = subprocess.Popen([sys.executable, "-c", HOLD, lake], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_builds(lake, stages, holder):
    with (
        pytest.raises(LakeError, match=rf"train: process {holder.pid} is building it under the same key"),
        stage_lock(lake, stages["train"], patience_seconds=0.2),
    ):
        pytest.fail("two processes hold one lock")


def test_other_stages_are_free(lake, stages, holder):
    with stage_lock(lake, stages["index"], patience_seconds=0.2):
        pass


def test_a_killed_holder_frees_it(lake, stages, holder):
    holder.kill()
    with stage_lock(lake, stages["train"], patience_seconds=10):
        pass


def test_an_object_store_has_no_lock(stages):
    with stage_lock("s3a://bucket/lake", stages["train"]), stage_lock("s3a://bucket/lake", stages["train"]):
        pass


def test_a_lake_that_is_a_file_is_named(tmp_path, stages):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(LakeError, match=r"paths\.lake .*file: cannot be written"),
        stage_lock(str(tmp_path / "file"), stages["train"]),
    ):
        pytest.fail("a file holds no lake")


def test_a_lock_file_that_cannot_be_opened_is_named(lake, stages):
    """As another user's would be; a folder in its place refuses root too."""
    train = stages["train"]
    (Path(lake) / "locks" / f"{train.name}-{train.id}").mkdir(parents=True)
    with (
        pytest.raises(LakeError, match=r"lake: cannot be written \(.*train-.*; choose another"),
        stage_lock(lake, train),
    ):
        pytest.fail("a folder is no lock file")
