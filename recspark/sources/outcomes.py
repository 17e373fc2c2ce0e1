"""What became of each source row: counts by rule and reason, checked before any commit, and the quarantine table.

{"rows_in": 1000, "kept": 940, "dropped": {"cancelled": 50}, "quarantined": {"missing_item_id": 10}}
"""

import datetime as dt
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.config.source import SourceConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import EVENTS, QUARANTINE
from recspark.errors import SourceError
from recspark.lake.spark import write_table
from recspark.logs import log
from recspark.sources.rules import DROPPED_BY
from recspark.sources.wanted import (
    IMPOSSIBLE_TIME,
    UNREADABLE_TIME,
    explain_bounds,
    explain_times,
    name_source,
    no_rows,
)

STAGE = "ingest"
_SHOWN_CHARS = 300
_SHOWN_TIMES = 3


def count_outcomes(rows: DataFrame, *more: str) -> list[Row]:
    """How many rows each rule and reason took, in one job; the first action on a persisted frame."""
    kept = F.col(DROPPED_BY).isNull() & F.col(c.REASON).isNull()
    by = [F.when(kept, F.col(name)).alias(name) for name in more]
    return rows.groupBy(DROPPED_BY, c.REASON, *by).count().collect()


def sum_outcomes(outcomes: Sequence[Row]) -> dict[str, Any]:
    """``rows_in``, ``kept``, ``dropped`` by rule and ``quarantined`` by reason, each rule and reason sorted by name."""
    kept, dropped, quarantined = 0, Counter[str](), Counter[str]()
    for outcome in outcomes:
        if outcome[DROPPED_BY] is not None:
            dropped[outcome[DROPPED_BY]] += outcome["count"]
        elif outcome[c.REASON] is not None:
            quarantined[outcome[c.REASON]] += outcome["count"]
        else:
            kept += outcome["count"]
    return {
        "rows_in": sum(outcome["count"] for outcome in outcomes),
        "kept": kept,
        "dropped": dict(sorted(dropped.items())),
        "quarantined": dict(sorted(quarantined.items())),
    }


def check_counts(run: Run, counts: dict[str, Any], mapped: DataFrame, newly_bad: int | None = None) -> None:
    """Checks, before any commit, that the source holds enough good rows and that the counts add up.

    ``newly_bad`` is how many of the bad rows ``mapped`` holds, where that is not all of them: without any, the ratio
    was judged before.

    Raises: SourceError for an empty source, too many bad rows or nothing kept; RuntimeError when rows were lost.
    """
    source = run.config.source
    where = name_source(source)
    rows_in, num_bad = counts["rows_in"], sum(counts["quarantined"].values())
    if rows_in != counts["kept"] + sum(counts["dropped"].values()) + num_bad:
        raise RuntimeError(f"ingest lost rows: {counts}")
    if rows_in == 0:
        raise no_rows(where)
    if num_bad > source.max_bad_ratio * rows_in and newly_bad != 0:
        example = mapped.where(F.col(c.REASON).isNotNull()).select(c.REASON, c.RAW, c.SOURCE_FILE).first()
        assert example
        times = _explain_times(source, mapped, counts["quarantined"])
        raise SourceError(
            f"{where}: {num_bad:,} of {rows_in:,} rows ({num_bad / rows_in:.1%}) would be quarantined, above "
            f"source.max_bad_ratio {source.max_bad_ratio:g}: {_list_counts(counts['quarantined'])}. "
            f"For example ({example[c.REASON]}) {str(example[c.RAW])[:_SHOWN_CHARS]} in "
            f"{example[c.SOURCE_FILE] or 'the source'}. {times}Mend the columns or the source, add a rule "
            f"under source.rules, or raise source.max_bad_ratio; nothing was written"
        )
    if counts["kept"] == 0:
        raise SourceError(
            f"{where}: none of {rows_in:,} rows is left: dropped {_list_counts(counts['dropped']) or 'none'}; "
            f"quarantined {_list_counts(counts['quarantined']) or 'none'}. Check source.rules; nothing was written"
        )


def _explain_times(source: SourceConfig, mapped: DataFrame, quarantined: dict[str, int]) -> str:
    """The first times that are no times of events and how to say what they are, where most bad rows have one."""
    if source.columns.ts is None:
        return ""
    for reason, explain in ((UNREADABLE_TIME, explain_times), (IMPOSSIBLE_TIME, explain_bounds)):
        if quarantined.get(reason, 0) * 2 < sum(quarantined.values()):
            continue
        rows = mapped.where(F.col(c.REASON) == reason).select(c.RAW).limit(_SHOWN_TIMES).collect()
        return explain(source, [str(json.loads(row[c.RAW])[source.columns.ts]) for row in rows]) + ". "
    return ""


def kept_rows(mapped: DataFrame) -> DataFrame:
    """The rows that become events, with the table's columns."""
    return mapped.where(F.col(DROPPED_BY).isNull() & F.col(c.REASON).isNull()).select(*EVENTS.schema.names)


def list_days(outcomes: Sequence[Row]) -> list[dt.date]:
    """The days of the kept rows, sorted; ``outcomes`` are counted by day."""
    return sorted({o[c.DAY] for o in outcomes if o[c.REASON] is None and o[DROPPED_BY] is None})


def bad_rows(run: Run, rows: DataFrame) -> DataFrame:
    """The rows with a reason, as this stage key's slice of `quarantine` holds them."""
    return rows.where(F.col(c.REASON).isNotNull()).select(
        F.lit(STAGE).alias(c.STAGE),
        F.lit(run.stages[STAGE].key).alias(c.STAGE_KEY),
        c.REASON,
        c.RAW,
        c.SOURCE_FILE,
        F.lit(run.run_id).alias(c.RUN_ID),
    )


def write_quarantine(run: Run, bad: DataFrame) -> int:
    """Replaces this stage key's slice of `quarantine` by `bad_rows`; the version."""
    key = run.stages[STAGE].key
    replace = f"{c.STAGE} = '{STAGE}' and {c.STAGE_KEY} = '{key}'"
    return write_table(bad, run.lake, QUARANTINE, run.record(STAGE, is_marker=False), replace)


def log_done(version: int, counts: dict[str, Any]) -> None:
    """One line with all counts."""
    flat = {
        "rows_in": counts["rows_in"],
        "kept": counts["kept"],
        **{f"dropped_{k}": v for k, v in counts["dropped"].items()},
        **{f"quarantined_{k}": v for k, v in counts["quarantined"].items()},
    }
    log(STAGE, f"done at version {version}", **flat)


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items(), key=lambda x: (-x[1], x[0])))
