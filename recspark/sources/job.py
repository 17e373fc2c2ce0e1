"""Stage ingest: source rows -> `events` (or, of an edge list, `items` and `item_graph`) and `quarantine`.

rows in = kept + dropped by rule + quarantined by reason, or nothing is committed.
"""

import datetime as dt
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from recspark.config import Run
from recspark.config.source import ColumnMap
from recspark.contracts import columns as c
from recspark.contracts.tables import EVENTS, QUARANTINE
from recspark.faults import fault_point
from recspark.lake.lineage import find_ingest_ancestor, list_source_files
from recspark.lake.spark import write_table
from recspark.logs import log
from recspark.sources.delta import read_delta
from recspark.sources.edges import ingest_edges
from recspark.sources.files import read_files
from recspark.sources.increment import ingest_increment
from recspark.sources.mapping import check_mapping, map_rows
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
from recspark.sources.rows import describe_columns, reading
from recspark.sources.rules import check_rules
from recspark.sources.synthetic import COLUMNS as SYNTHETIC_COLUMNS
from recspark.sources.synthetic import read_synthetic
from recspark.sources.wanted import name_source


def ingest(spark: SparkSession, run: Run) -> None:
    """Reads, maps, filters and counts the source, then commits the stage's tables, the marker last.

    Raises: SourceError for a source that is missing, damaged, empty, lacks columns or has too many bad rows.
    """
    source = run.config.source
    check_rules(spark, source.rules)
    if source.privacy:
        log(STAGE, f"ids are hidden by the key in {source.privacy.key_name}, fingerprint {source.privacy.fingerprint}")
    with reading(name_source(source), run.lake, may_quote=source.privacy is None):
        if source.kind == "edges":
            ingest_edges(spark, run, read_rows(spark, run))
            return
        ancestor = find_ingest_ancestor(run)
        if ancestor.is_telling:
            log(STAGE, ancestor.describe())
        if ancestor.at is None or not ingest_increment(spark, run, ancestor):
            _ingest_events(run, read_rows(spark, run))


def read_rows(spark: SparkSession, run: Run) -> DataFrame:
    """The source's rows in the common shape (`rows`), whatever its kind."""
    source = run.config.source
    if source.kind == "synthetic":
        return read_synthetic(spark, source, run.seed)
    assert source.path
    if source.kind == "delta":
        return read_delta(spark, source.path, int(run.source["version"]))
    assert source.format
    only = list_source_files(run) if source.kind == "files" else None
    return read_files(spark, source.path, source.format, source.separator, only)


def _ingest_events(run: Run, rows: DataFrame) -> None:
    source = run.config.source
    columns = ColumnMap(**SYNTHETIC_COLUMNS) if source.kind == "synthetic" else source.columns
    check_mapping(rows, source, columns)
    mapped = map_rows(hide_events(rows, source), source, columns).persist()
    try:
        outcomes = count_outcomes(mapped, c.DAY)
        counts = sum_outcomes(outcomes)
        check_counts(run, counts, mapped)
        version = write_quarantine(run, bad_rows(run, mapped))
        fault_point("ingest.between_tables")
        facts = {"source_columns": describe_columns(rows)} if source.kind in ("files", "delta") else {}
        _write_events(run, mapped, version, counts | _describe_days(list_days(outcomes)), facts)
    finally:
        mapped.unpersist()


def _write_events(
    run: Run, mapped: DataFrame, quarantine_version: int, counts: dict[str, Any], facts: dict[str, Any]
) -> None:
    # Files hold ranges of days: readers skip by their statistics, and thin years do not become thousands of files.
    record = run.record(
        STAGE,
        is_marker=True,
        tables={QUARANTINE.name: quarantine_version},
        inputs={"source": run.source},
        counts=counts,
        facts={"order": run.config.source.order, "source": run.source_facts}
        | describe_privacy(run.config.source)
        | facts,
    )
    version = write_table(kept_rows(mapped).repartitionByRange(c.DAY, c.USER_ID), run.lake, EVENTS, record)
    log_done(version, counts)


def _describe_days(days: list[dt.date]) -> dict[str, Any]:
    return {"days": len(days), "first_day": str(days[0]), "last_day": str(days[-1])}
