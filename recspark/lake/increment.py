"""Versions made from an earlier one: its data files stay, new ones come in, those with changed rows are replaced.

    version 3   key A, files 1 2          version 5   (restored: files 1 2)
    version 4   key B, files 8 9    ->    version 6   key C, files 1 2 3: appended
                                          version 7   key C, the same files: the marker

Keys share a table, and Spark changes its newest version, whoever made that: so the earlier version is restored first
where it is not the newest (a commit of file names, no data moves), and after the change we look whether it stands
directly on what it was meant for. Another writer in between makes us start over. Only delta-rs can commit at one given
version or not at all; so the marker, which means done, is a commit of its own without files.
"""

from collections.abc import Callable

from delta.tables import DeltaTable as SparkDeltaTable
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.contracts.commits import CommitRecord
from recspark.contracts.tables import TableSpec
from recspark.errors import LakeError
from recspark.lake.arrow import TableAt, find_commit, open_table
from recspark.lake.lineage import list_new_files
from recspark.lake.spark import execute_merge, fit_frame, read_table
from recspark.lake.storage import delta_uri

GONE = "_gone"
"""Marks rows of a merge that are to be deleted."""

_TRIES = 5
_AT_ONCE_OR_NOT = 0
"""Of delta-rs' commit retries: the commit follows the version that was opened, or fails."""
_CONFLICT = "Concurrent"
"""In the names of all of Delta's errors about another writer."""


def append_rows(rows: DataFrame, base: TableAt, spec: TableSpec, record: CommitRecord) -> int:
    """Commits an earlier version's rows and more; the version."""

    def append() -> None:
        writer = fit_frame(rows, spec).write.format("delta").mode("append")
        writer.option("userMetadata", record.to_json()).save(base.uri)

    return _commit_on(base, record, append)


def merge_rows(changes: DataFrame, base: TableAt, spec: TableSpec, record: CommitRecord) -> int:
    """Commits an earlier version with some rows replaced by key, added or, where ``GONE``, deleted; the version.

    Files without such a row are carried over. ``changes`` holds each key once, and the partition of its row.
    """
    spark = changes.sparkSession
    keys = dict.fromkeys([*spec.partition_by, *spec.key])
    same = " AND ".join(f"old.{name} = new.{name}" for name in keys)
    values = {name: f"new.{name}" for name in spec.schema.names}

    def merge() -> None:
        merged = SparkDeltaTable.forPath(spark, base.uri).alias("old").merge(changes.alias("new"), same)
        merged = merged.whenMatchedDelete(f"new.{GONE}").whenMatchedUpdate(set=values)
        merged = merged.whenNotMatchedInsert(f"NOT new.{GONE}", values=values)
        execute_merge(spark, merged, record)

    return _commit_on(base, record, merge)


def find_changes(old: DataFrame, new: DataFrame, spec: TableSpec) -> DataFrame:
    """What `merge_rows` takes to make ``new`` of ``old``: rows that are not the same in both."""
    names = spec.schema.names
    keys = list(dict.fromkeys([*spec.partition_by, *spec.key]))
    old, new = old.select(*names), new.select(*names)
    gone = old.join(new.select(*keys), keys, "left_anti")
    return new.exceptAll(old).withColumn(GONE, F.lit(False)).unionByName(gone.withColumn(GONE, F.lit(True)))


def commit_marker(at: TableAt, record: CommitRecord) -> int:
    """Commits a record at a version's rows, right behind it; the marker's version.

    Raises: LakeError when other writers are always faster.
    """
    uri = delta_uri(at.uri)
    for _ in range(_TRIES):
        start = _restore(at)
        table = DeltaTable(uri, version=start)
        columns = table.metadata().partition_columns
        try:
            table.create_write_transaction([], "append", table.schema(), columns, commit_properties=_properties(record))
        except CommitFailedError:
            continue
        return start + 1
    raise _too_busy(at)


def read_new_rows(spark: SparkSession, table: TableAt, earlier: TableAt) -> DataFrame | None:
    """The rows that a version has beyond an earlier one it grew from; None where it holds not all files of that one."""
    names = list_new_files(table, earlier.version)
    if names is None:
        return None
    return read_table(spark, table).where(F.col("_metadata.file_name").isin(names))


def _commit_on(base: TableAt, record: CommitRecord, change: Callable[[], None]) -> int:
    """Makes one commit directly on an earlier version's rows.

    Raises: LakeError when other writers are always faster.
    """
    for _ in range(_TRIES):
        start = _restore(base)
        try:
            change()
        except PySparkException as error:
            if _CONFLICT not in f"{type(error).__name__} {error}":
                raise
            continue
        found = find_commit(base.lake, base.name, record.key, record.run_id)
        if found and found[0] == start + 1:
            return found[0]
    raise _too_busy(base)


def _restore(at: TableAt) -> int:
    """The newest version, which has the rows of an earlier one: that itself, or a new commit of its files."""
    for _ in range(_TRIES):
        newest = open_table(at.lake, at.name)
        if newest.version() == at.version:
            return at.version
        try:
            newest.restore(at.version, commit_properties=_properties(None))
        except CommitFailedError:
            continue
        return int(newest.version())
    raise _too_busy(at)


def _properties(record: CommitRecord | None) -> CommitProperties:
    metadata = {"userMetadata": record.to_json()} if record else None
    return CommitProperties(custom_metadata=metadata, max_commit_retries=_AT_ONCE_OR_NOT)


def _too_busy(at: TableAt) -> LakeError:
    return LakeError(f"{at.uri}: other writers came in between {_TRIES} times; run again when they are done")
