"""Versions made from an earlier one: exactly its rows and the changes, whatever other writers do to the table."""

import pyarrow as pa
import pytest

from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import USERS
from recspark.errors import LakeError
from recspark.lake import arrow, increment
from recspark.lake.spark import read_table, spark_schema

pytestmark = pytest.mark.spark


def record(key, is_marker=False):
    return CommitRecord("sessions", key, f"run {key}", is_marker, "0")


def rows(*users):
    return pa.Table.from_pylist([{"user_idx": i, "user_id": f"u{i}", "num_events": n} for i, n in users], USERS.schema)


def write(lake, key, *users):
    version = arrow.write_table(lake, USERS, rows(*users), record(key))
    return arrow.TableAt(lake, "users", version, record(key))


def frame(spark, *users):
    return spark.createDataFrame([(i, f"u{i}", n) for i, n in users], spark_schema(USERS))


def found(at, version):
    table = arrow.read_table(arrow.TableAt(at.lake, at.name, version, at.record))
    return sorted((r["user_idx"], r["num_events"]) for r in table.to_pylist())


def files(at, version):
    return set(arrow.open_table(at.lake, at.name, version).file_uris())


def test_append_merge_and_mark_on_a_version_that_is_not_the_newest(spark, lake):
    base = write(lake, "a", (0, 5), (1, 6))
    write(lake, "other", (7, 7))
    appended = increment.append_rows(frame(spark, (2, 1)), base, USERS, record("b"))
    assert found(base, appended) == [(0, 5), (1, 6), (2, 1)]
    assert files(base, base.version) < files(base, appended)
    assert read_table(spark, arrow.TableAt(lake, "users", appended, base.record)).count() == 3

    write(lake, "other", (7, 7))
    at = arrow.TableAt(lake, "users", appended, record("b"))
    changes = increment.find_changes(frame(spark, (0, 5), (2, 1)), frame(spark, (2, 9), (3, 4)), USERS)
    merged = increment.merge_rows(changes, at, USERS, record("c"))
    assert found(base, merged) == [(1, 6), (2, 9), (3, 4)]
    write(lake, "other", (7, 7))
    marked = increment.commit_marker(arrow.TableAt(lake, "users", merged, record("c")), record("c", True))
    assert found(base, marked) == found(base, merged)
    assert arrow.find_commit(lake, "users", "c") == (marked, record("c", True))
    assert found(base, base.version) == [(0, 5), (1, 6)]


def test_a_writer_in_between_makes_it_start_over(spark, lake, monkeypatch):
    base = write(lake, "a", (0, 5))
    restore, intruders = increment._restore, [(8, 8), (9, 9)]

    def restore_then_lose(at):
        start = restore(at)
        if intruders:
            write(lake, "other", intruders.pop())
        return start

    monkeypatch.setattr(increment, "_restore", restore_then_lose)
    version = increment.append_rows(frame(spark, (1, 1)), base, USERS, record("b"))
    assert found(base, version) == [(0, 5), (1, 1)]
    intruders.append((8, 8))
    marked = increment.commit_marker(arrow.TableAt(lake, "users", version, record("b")), record("b", True))
    assert found(base, marked) == [(0, 5), (1, 1)]
    assert not intruders

    monkeypatch.setattr(increment, "_restore", lambda at: write(lake, "other", (8, 8)).version - 1)
    with pytest.raises(LakeError, match="other writers came in between 5 times; run again"):
        increment.commit_marker(arrow.TableAt(lake, "users", version, record("b")), record("b", True))


def test_new_rows_are_those_of_files_that_only_the_later_version_has(spark, lake):
    base = write(lake, "a", (0, 5))
    grown = increment.append_rows(frame(spark, (1, 1)), base, USERS, record("b"))
    later = arrow.TableAt(lake, "users", grown, base.record)
    assert [r["user_idx"] for r in increment.read_new_rows(spark, later, base).collect()] == [1]
    assert increment.read_new_rows(spark, base, later) is None
