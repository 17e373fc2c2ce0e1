"""What engines say of a full disk, a lost file and another writer becomes one message; what is our mistake stays."""

import errno
import os

import pytest

from recspark.config import RunConfig, plan_run
from recspark.errors import LakeError, SetupError, SourceError
from recspark.lake.failures import explaining_failures, is_of_lake
from recspark.pipeline import side

LAKE = "/data/lake"
PART = "part-00000-5f0c-c000.snappy.parquet"
READING = "[FAILED_READ_FILE.{kind}] Encountered error while reading file file://{path}. SQLSTATE: KD001"
FULL = "Job aborted due to stage failure: TASK_WRITE_FAILED ... java.io.IOException: No space left on device"


def explain(error, lake=LAKE):
    with explaining_failures("sessions", lake):
        raise error


@pytest.mark.parametrize(
    ("lake", "path", "kind", "cause"),
    [
        (LAKE, f"{LAKE}/tables/events/{PART}", "FILE_NOT_EXIST", "is gone"),
        (LAKE, f"{LAKE}/tables/sessions/split=train/{PART}", "NO_HINT", "is damaged (FAILED_READ_FILE)"),
        ("s3a://bucket/lake", f"bucket/lake/tables/events/{PART}", "FILE_NOT_EXIST", "is gone"),
    ],
)
def test_a_lost_data_file_of_ours_names_table_and_file(lake, path, kind, cause):
    table = path.split("/tables/")[1].split("/")[0]
    with pytest.raises(LakeError) as caught:
        explain(RuntimeError(READING.format(kind=kind, path=path)), lake)
    assert str(caught.value) == (
        f"sessions: a data file of {lake}/tables/{table} {cause}: {PART}; restore it, or remove {lake}/tables/{table} "
        f"and run `recspark run CONF` again: what wrote the table is built anew"
    )


def test_files_of_others_and_our_own_mistakes_stay_what_they_are():
    for error in (RuntimeError(READING.format(kind="NO_HINT", path=f"/in/{PART}")), KeyError("x"), SourceError("y")):
        with pytest.raises(type(error)) as caught:
            explain(error)
        assert caught.value is error
    # A source that breaks while its rows are written: the message names the table too.
    written = f"TASK_WRITE_FAILED rows to file:{LAKE}/tables/events. {READING.format(kind='NO_HINT', path='/in/a.csv')}"
    assert not is_of_lake(written, LAKE)


def test_a_full_disk_is_told_whoever_said_it(tmp_path):
    inner = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    outer = RuntimeError("cannot write")
    outer.__cause__ = inner
    for error, sign in ((RuntimeError(FULL), "No space left on device"), (outer, "File too large")):
        with pytest.raises(SetupError) as caught:
            explain(error, str(tmp_path))
        text = str(caught.value)
        assert text.startswith(f"sessions: the disk is full ({sign}): paths.lake {tmp_path} (")
        assert " GiB free), scratch space " in text
        assert text.endswith("then run again: nothing of an unfinished stage counts, the run goes on from the last finished one")  # fmt: skip  # noqa: E501


def test_another_writer_is_named():
    with pytest.raises(
        LakeError, match=r"sessions: another run committed .* \(DELTA_CONCURRENT_APPEND\), .* run again"
    ):
        explain(RuntimeError("[DELTA_CONCURRENT_APPEND] Transaction conflict detected"))


def test_a_stage_that_finds_the_disk_full_ends_with_2(tmp_path, monkeypatch, capsys):
    """Also where not even a word for the parent process can be left."""
    lake = str(tmp_path / "lake")
    config = {"split": {"kind": "time", "cut": "2026-01-01"}, "paths": {"lake": lake}}
    run = plan_run(RunConfig.model_validate(config), {"fingerprint": "f00", "kind": "synthetic"})

    def fill(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(side._ENGINE_STAGES, "train", fill)
    monkeypatch.setattr(side, "_check_inputs", lambda *_: None)
    monkeypatch.setattr(side, "open_job_run", lambda *_: run)
    monkeypatch.setenv(side.EXIT_FILE, "/dev/full")
    assert side.main(["train", "run.yaml"]) == side.USER_ERROR
    assert "error: train: the disk is full (No space left on device): paths.lake " in capsys.readouterr().err
