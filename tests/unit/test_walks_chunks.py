"""Files of finished pieces become one version of `walks`, whatever other builds do at the same time."""

import pyarrow as pa
import pytest

from recspark.contracts.tables import WALKS
from recspark.errors import LakeError
from recspark.lake.arrow import TableAt, find_commit, read_table, write_table
from recspark.walks import chunks as ch
from tests.helpers.tiny_lake import plan_tiny


def rows(epoch, start):
    return {"epoch": epoch, "shard": 0, "start_idx": start, "walk": [start, start + 1]}


def write_chunks(run, spec, *epochs):
    """A chunks' table with one walk an epoch, as Spark would have written it."""
    walks = pa.Table.from_pylist([rows(e, 10 * e) | {"unit": e} for e in epochs], schema=spec.schema)
    record = run.record("walks", is_marker=False, inputs={"item_graph": 3}, facts={ch.UNITS: list(epochs)})
    write_table(run.lake, spec, walks, record, f"unit in ({', '.join(map(str, epochs))})" if epochs[0] else None)
    return ch.list_files(run.lake, spec.name)


def publish(run, spec, files, num_epochs):
    record = run.record("walks", is_marker=True, facts={"num_epochs": num_epochs})
    return TableAt(run.lake, "walks", ch.commit_files(run.lake, files, spec, record), record)


def epochs_of(table):
    return sorted(r["epoch"] for r in read_table(table).to_pylist())


@pytest.fixture
def run(tmp_path):
    return plan_tiny(tmp_path)


def test_files_are_listed_not_written_again(run):
    spec = ch.chunk_table("a" * 64, 1)
    files = write_chunks(run, spec, 0, 1)
    assert ch.find_done_units(run.lake, spec, {"item_graph": 3}) == {0, 1}
    assert ch.find_done_units(run.lake, spec, {"item_graph": 4}) == set()
    table = publish(run, spec, files, 2)
    assert read_table(table).to_pylist() == [rows(0, 0), rows(1, 10)]
    assert read_table(table).schema.equals(WALKS.schema)
    assert {f.path for f in ch.list_files(run.lake, "walks")} == {f.path for f in files}


def test_files_of_the_newest_version_are_copied_those_of_others_are_not(run):
    old = ch.chunk_table("a" * 64, 1)
    files = write_chunks(run, old, 0, 1)
    first = publish(run, old, files, 2)
    new = ch.chunk_table("b" * 64, 1)
    second = publish(run, new, ch.find_kept_files(first, 1), 1)
    copied = {f.path for f in ch.list_files(run.lake, "walks")}
    assert (epochs_of(second), len(copied & {f.path for f in files})) == ([0], 0)
    third = publish(run, new, files, 2)
    assert {f.path for f in ch.list_files(run.lake, "walks")} == {f.path for f in files}
    assert [epochs_of(t) for t in (first, second, third)] == [[0, 1], [0], [0, 1]]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("times", [1, 99])
def test_a_build_that_is_overtaken_tries_again(run, tmp_path, monkeypatch, there, times):
    spec = ch.chunk_table("a" * 64, 1)
    files, other = write_chunks(run, spec, 0), plan_tiny(tmp_path, run={"name": "other", "seed": 9})
    if there:
        write_table(
            run.lake, WALKS, pa.Table.from_pylist([rows(7, 7)], WALKS.schema), other.record("walks", is_marker=True)
        )
    without, left = ch._without_paths_of, [times]

    def overtaken(*arguments):
        if left[0]:
            left[0] -= 1
            taken = pa.Table.from_pylist([rows(8, left[0])], schema=WALKS.schema)
            write_table(run.lake, WALKS, taken, other.record("walks", is_marker=True))
        return without(*arguments)

    monkeypatch.setattr(ch, "_without_paths_of", overtaken)
    if times > 5:
        with pytest.raises(LakeError, match="other runs have committed 5 times while this one tried"):
            publish(run, spec, files, 1)
        assert find_commit(run.lake, "walks", run.stages["walks"].key) is None
        return
    assert epochs_of(publish(run, spec, files, 1)) == [0]
