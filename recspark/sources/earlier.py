"""What earlier increments have read, as far as rows that come in now may repeat it.

events (event_id '5f0c...', row_hash 0x9a...)   a new row of the same hash is a duplicate, one of the same values
refused (row_hash 0x77...)                      another copy, one of the same given id a repeat
"""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config.source import ColumnMap, SourceConfig
from recspark.contracts import columns as c
from recspark.lake.arrow import TableAt
from recspark.lake.spark import read_table
from recspark.sources.mapping import event_time
from recspark.sources.rules import ROW_HASH_HEX
from recspark.sources.times import start_of_day

_MAX_LISTED_DAYS = 400


@dataclass(frozen=True)
class EarlierRows:
    """``events``: event_id, row_hash, day of the kept; ``refused``: row_hash of those in quarantine."""

    events: DataFrame
    refused: DataFrame

    @property
    def row_hashes(self) -> DataFrame:
        """Hashes of all rows that an identical one would be a duplicate of."""
        return self.events.select(c.ROW_HASH).unionByName(self.refused).distinct()


def read_earlier(
    spark: SparkSession,
    rows: DataFrame,
    source: SourceConfig,
    columns: ColumnMap,
    events: TableAt,
    quarantine: DataFrame,
) -> EarlierRows:
    """The earlier rows that ``rows`` may repeat.

    Equal rows have equal times: without ids of the source's own, only the days of the new rows are read. ``quarantine``
    is the slice of the earlier version.
    """
    kept = read_table(spark, events).select(c.EVENT_ID, c.ROW_HASH, c.DAY)
    if columns.event_id is None:
        kept = kept.where(_is_among_days(rows, source, columns))
    row_hash = F.unhex(F.substring(F.sha2(c.RAW, 256), 1, ROW_HASH_HEX))
    return EarlierRows(kept, quarantine.select(row_hash.alias(c.ROW_HASH)))


def _is_among_days(rows: DataFrame, source: SourceConfig, columns: ColumnMap) -> Column:
    time = event_time(rows, source, columns)
    # Impossible times become no event, and years beyond 9999 no date of Python's.
    is_possible = (time >= start_of_day(source.earliest)) & (time < start_of_day(source.latest))
    days = F.when(is_possible, F.to_date(time)) if columns.ts else F.to_date(time)
    found = sorted(row[0] for row in rows.select(days).distinct().collect() if row[0] is not None)
    if len(found) <= _MAX_LISTED_DAYS:
        return F.col(c.DAY).isin(found)
    return F.col(c.DAY).between(found[0], found[-1])
