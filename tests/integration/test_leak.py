"""The leak audit on a lake that the whole chain has made: as a command, and inside a run."""

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from recspark.contracts import columns as c
from recspark.contracts.tables import ITEMS, SESSIONS
from recspark.lake.arrow import find_table, read_table, write_table
from recspark.pipeline.open_run import open_run
from tests.helpers.chain import run_chain, run_command, stages_said, write_conf

pytestmark = [pytest.mark.integration, pytest.mark.spark]


def verify(conf, *overrides):
    return run_command([sys.executable, "-m", "recspark.cli", "verify", "leak", str(conf), *overrides])


def count_test_events_as_popularity(conf):
    """Writes `items` again, with counts of all events, in a commit that says it is the sessions stage's."""
    run = open_run(conf)
    items = find_table(run.lake, run.stages["sessions"], "items")
    rows = read_table(items)
    counts = pa.array([n + 3 for n in rows[c.NUM_EVENTS].to_pylist()], pa.int64())
    rows = rows.set_column(rows.schema.get_field_index(c.NUM_EVENTS), c.NUM_EVENTS, counts)
    record = run.record("sessions", is_marker=False, inputs=items.record.inputs)
    version = write_table(run.lake, ITEMS, rows, record)
    sessions = find_table(run.lake, run.stages["sessions"], "sessions")
    marker = run.record(
        "sessions", is_marker=True, inputs=items.record.inputs, counts=items.record.counts, facts=items.record.facts,
        tables=items.record.tables | {"items": version},
    )  # fmt: skip
    write_table(run.lake, SESSIONS, read_table(sessions), marker)


def test_a_whole_run_is_clean_and_a_poisoned_copy_is_caught(undisturbed, tmp_path):
    assert "leak audit: 25 checks clean over " in undisturbed[1]
    clean = verify(undisturbed[0])
    assert clean.code == 0, clean.text
    assert "learned from nothing after 2026-02-15T" in clean.text
    lake = tmp_path / "lake"
    shutil.copytree(Path(undisturbed[0]).parent / "lake", lake)
    conf = write_conf(tmp_path / "run.yaml", lake)
    count_test_events_as_popularity(conf)
    caught = verify(conf)
    assert caught.code == 1
    assert "items.num_events: items at version 1: expected: num_events counts the events of the train" in caught.text
    assert "Traceback" not in caught.text
    ended = run_chain(conf, "evaluate.ks=[5]")
    assert ended.code == 1
    assert "items.num_events" in ended.text
    assert "evaluate" not in stages_said(ended.text, "finished")
    nothing = verify(conf, "clean.max_user_events=77")
    assert nothing.code == 2
    assert f"run `recspark run {conf} clean.max_user_events=77` first" in nothing.text
