"""Source times to UTC: ISO 8601, Spark datetime patterns, epoch numbers, native times.

    "2011-06-01 08:26:00" in Europe/London   ->   2011-06-01T07:26:00Z
    "964982703" as epoch_seconds             ->   2000-07-30T18:45:03Z

In the hour that a clock change repeats, zoneless times are read as the first pass.
"""

import datetime as dt
import re

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, DateType, NumericType, TimestampNTZType, TimestampType

from recspark.config.source import SourceConfig
from recspark.sources.rules import number_text
from recspark.sources.wanted import EPOCH_UNITS, check_number_times

# A time without a date would be read as today's, a lone year as January: neither is a moment someone recorded.
_ISO = r"^\s*[0-9]{4,6}-[0-9]{1,2}-[0-9]{1,2}(?:[ T].*)?$"
_ISO_ZONELESS = r"^[^:]*?(?:[ T][0-9]{1,2}(?::[0-9]{1,2}){0,2}(?:\.[0-9]*)?)?\s*$"
_LARGEST_MICROS = 253_402_300_800_000_000  # year 10000


def read_time(value: Column, found: DataType, source: SourceConfig) -> Column:
    """A source column as UTC timestamp, NULL where it cannot be read; the session's time zone has to be UTC.

    Raises: SourceError for a number without a unit in ``source.timestamp_format``.
    """
    if isinstance(found, TimestampType):
        return value
    if isinstance(found, DateType | TimestampNTZType):
        return _from_zone(value.cast("timestamp"), source)
    text = value.cast("string")
    wanted = source.timestamp_format
    if wanted in EPOCH_UNITS:
        return _read_epoch(text, EPOCH_UNITS[wanted])
    if isinstance(found, NumericType):
        check_number_times(source, source.columns.ts or "", found.simpleString())
    if wanted is None:
        return _read_iso(text, source)
    parsed = F.try_to_timestamp(text, F.lit(wanted))
    return parsed if _has_zone(wanted) else _from_zone(parsed, source)


def start_of_day(text: str) -> dt.datetime:
    """The first moment (UTC) of a day such as ``source.earliest``."""
    return dt.datetime.combine(dt.date.fromisoformat(text), dt.time(), dt.UTC)


def _read_epoch(text: Column, micros_a_unit: int) -> Column:
    micros = F.round(number_text(text) * micros_a_unit)
    in_range = F.abs(micros) < _LARGEST_MICROS  # the cast to bigint must not overflow
    return F.timestamp_micros(F.when(in_range, micros).cast("bigint"))


def _read_iso(text: Column, source: SourceConfig) -> Column:
    parsed = F.when(text.rlike(_ISO), text.try_cast("timestamp"))
    return F.when(text.rlike(_ISO_ZONELESS), _from_zone(parsed, source)).otherwise(parsed)


def _from_zone(local: Column, source: SourceConfig) -> Column:
    return local if source.timezone == "UTC" else F.to_utc_timestamp(local, source.timezone)


def _has_zone(pattern: str) -> bool:
    """Whether a Spark datetime pattern reads a zone, quoted text aside."""
    return bool(re.search(r"[VzOXxZ]", re.sub(r"'[^']*'", "", pattern)))
