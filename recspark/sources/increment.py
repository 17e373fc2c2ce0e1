"""What came in since an earlier version of `events`: only that is read and mapped, and appended to the version.

events at version 3 of files a, b  +  file c   ->   events at version 5, of a, b, c: the rows of a full build
"""

import datetime as dt
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.counts import add_counts
from recspark.contracts.tables import EVENTS, QUARANTINE
from recspark.faults import fault_point
from recspark.lake.arrow import TableAt
from recspark.lake.increment import append_rows, commit_marker
from recspark.lake.lineage import Ancestor
from recspark.lake.spark import read_table
from recspark.logs import log
from recspark.sources.delta import read_appended
from recspark.sources.earlier import read_earlier
from recspark.sources.files import read_files
from recspark.sources.mapping import REPLACES_EARLIER, check_mapping, map_rows
from recspark.sources.outcomes import (
    STAGE,
    bad_rows,
    check_counts,
    count_outcomes,
    kept_rows,
    list_days,
    log_done,
    sum_outcomes,
    write_quarantine,
)
from recspark.sources.privacy import describe_privacy, hide_events
from recspark.sources.rows import describe_columns


def ingest_increment(spark: SparkSession, run: Run, ancestor: Ancestor) -> bool:
    """Commits the ancestor's events and those that came in; False, and nothing done, where it takes a full build.

    Raises: SourceError as a full build.
    """
    assert ancestor.at
    refused = read_table(spark, _quarantine_of(ancestor.at)).where(
        (F.col(c.STAGE) == STAGE) & (F.col(c.STAGE_KEY) == ancestor.at.record.key)
    )
    if not ancestor.new:
        _commit(run, ancestor.at, None, refused, _unchanged(ancestor.at.record.counts))
        return True
    rows = _read_new(spark, run, ancestor.new)
    if describe_columns(rows) != ancestor.at.record.facts.get("source_columns"):
        log(STAGE, "in full: the columns of what came in differ from those of the earlier version")
        return False
    columns = run.config.source.columns
    check_mapping(rows, run.config.source, columns)
    earlier = read_earlier(spark, rows, run.config.source, columns, ancestor.at, refused)
    mapped = map_rows(hide_events(rows, run.config.source), run.config.source, columns, earlier).persist()
    try:
        return _settle(spark, run, ancestor.at, mapped, refused)
    finally:
        mapped.unpersist()


def _settle(spark: SparkSession, run: Run, base: TableAt, mapped: DataFrame, refused: DataFrame) -> bool:
    """Counts what came in, checks it and commits."""
    outcomes = count_outcomes(mapped, c.DAY)
    found = sum_outcomes(outcomes)
    if replaced := found["quarantined"].get(REPLACES_EARLIER):
        log(STAGE, f"in full: {replaced:,} new rows would replace earlier events of the same id")
        return False
    before = base.record.counts
    counts = before | add_counts({name: before[name] for name in found}, found)
    check_counts(run, counts, mapped, newly_bad=sum(found["quarantined"].values()))
    counts |= _add_days(spark, base, list_days(outcomes)) | {"read": found["rows_in"]}
    _commit(run, base, mapped, refused, counts)
    return True


def _read_new(spark: SparkSession, run: Run, names: tuple[str, ...]) -> DataFrame:
    source = run.config.source
    assert source.path
    if source.kind == "delta":
        return read_appended(spark, source.path, int(run.source["version"]), names)
    assert source.format
    return read_files(spark, source.path, source.format, source.separator, names)


def _quarantine_of(events: TableAt) -> TableAt:
    return TableAt(events.lake, QUARANTINE.name, events.record.tables[QUARANTINE.name], events.record)


def _unchanged(counts: dict[str, Any]) -> dict[str, Any]:
    return counts | {"read": 0}


def _add_days(spark: SparkSession, base: TableAt, new_days: list[dt.date]) -> dict[str, Any]:
    before = base.record.counts
    if not new_days:
        return {name: before[name] for name in ("days", "first_day", "last_day")}
    known = read_table(spark, base).where(F.col(c.DAY).isin(new_days)).select(c.DAY).distinct().count()
    return {
        "days": before["days"] + len(new_days) - known,
        "first_day": min(before["first_day"], str(new_days[0])),
        "last_day": max(before["last_day"], str(new_days[-1])),
    }


def _commit(run: Run, base: TableAt, mapped: DataFrame | None, refused: DataFrame, counts: dict[str, Any]) -> None:
    """Commits the quarantine's slice, the new events behind the ancestor's, and the marker."""
    own = bad_rows(run, mapped) if mapped is not None else None
    earlier = refused.withColumn(c.STAGE_KEY, F.lit(run.stages[STAGE].key))
    slice_ = earlier if own is None else earlier.unionByName(own)
    tables = {QUARANTINE.name: write_quarantine(run, slice_)}
    fault_point("ingest.between_tables")
    version = base.version
    if mapped is not None:
        kept = kept_rows(mapped).repartitionByRange(c.DAY, c.USER_ID)
        version = append_rows(kept, base, EVENTS, run.record(STAGE, is_marker=False))
    fault_point("ingest.before_marker")
    read = counts.pop("read")
    facts = (
        base.record.facts
        | describe_privacy(run.config.source)
        | {
            "source": run.source_facts,
            "built_from": {"version": base.version, "key": base.record.key[:12], "rows_read": read},
        }
    )
    record = run.record(STAGE, is_marker=True, tables=tables, inputs={"source": run.source}, counts=counts, facts=facts)
    version = commit_marker(TableAt(run.lake, EVENTS.name, version, record), record)
    log(STAGE, f"went on from version {base.version}", rows_read=read)
    log_done(version, counts)
