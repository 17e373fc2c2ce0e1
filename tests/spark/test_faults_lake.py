"""Our own tables damaged between two stages, and two runs that build the same at once."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from recspark.errors import LakeError
from recspark.lake import arrow
from recspark.pipeline import side
from recspark.sources import job as source_job
from recspark.sources.job import ingest
from tests.helpers import increments, sessions_oracle
from tests.helpers.faults import content

pytestmark = pytest.mark.spark

CUT = {"kind": "time", "cut": "2026-01-03"}


@pytest.fixture
def run(tmp_path):
    lines = [increments.to_line(event) for event in sessions_oracle.random_events(12, 80)]
    increments.write_files(tmp_path / "log", [lines])
    return increments.plan(str(tmp_path / "lake"), tmp_path / "log", evaluate=None, split=CUT)


@pytest.fixture
def stages(spark, monkeypatch):
    """`run_stages` in this process, as a side runs them."""

    @contextmanager
    def borrowed(_):
        yield spark

    monkeypatch.setattr(side, "_spark_of", borrowed)
    return side.run_stages


def data_files(lake, table):
    return sorted(Path(lake, "tables", table).rglob("*.parquet"))


def flip(path):
    """A bit in the middle, with no checksum file of Hadoop's beside it: as on an object store."""
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 4
    path.write_bytes(whole)


DAMAGES = {
    "gone": (Path.unlink, r"is gone"),
    "flipped": (flip, r"is damaged \(.+\)"),
    "short": (lambda path: path.write_bytes(path.read_bytes()[:-40]), r"is damaged \(.+\)"),
}


def test_events_damaged_before_sessions_are_named_and_built_anew(run, stages, tmp_path):
    stages(run, ["ingest"])
    whole = tmp_path / "whole"
    copytree(run.lake, whole)
    for damage, message in DAMAGES.values():
        damage(data_files(run.lake, "events")[0])
        place = rf"{run.lake}/tables/events"
        with pytest.raises(LakeError, match=rf"^sessions: a data file of {place} {message}: part-\S+; restore it, or"):
            stages(run, ["sessions"])
        assert arrow.find_done(run.lake, run.stages["sessions"]) is None
        rmtree(run.lake)
        copytree(whole, run.lake)
    stages(run, ["sessions"])
    expected = content(run, ("ingest", "sessions"))
    rmtree(Path(run.lake, "tables", "events"))  # as the message advises
    stages(run, ["ingest", "sessions"])
    assert content(run, ("ingest", "sessions")) == expected


def test_a_run_that_is_overtaken_by_the_same_one_doubles_nothing(spark, run, monkeypatch):
    """As on an object store, which has no locks: another one does all of it between our first commit and our last."""
    other, write = replace(run, run_id="other"), source_job.write_table

    def write_after_another(*args, **how):
        monkeypatch.setattr(source_job, "write_table", write)
        ingest(spark, other)
        return write(*args, **how)

    monkeypatch.setattr(source_job, "write_table", write_after_another)
    ingest(spark, run)
    records = [r for _, r in arrow.list_records(run.lake, "events")]
    assert [r.run_id for r in records] == [run.run_id, "other"]
    found = content(run, ("ingest",))
    rmtree(run.lake)
    ingest(spark, run)
    assert content(run, ("ingest",)) == found
