"""Source rows to events: the column map, with a reason beside each row that cannot be one.

    {CustomerID: "17850.0", StockCode: "85123A", InvoiceDate: "2010-12-01 08:26:00"}
      ->  user_id "17850.0", item_id "85123A", ts 2010-12-01T08:26:00Z, event_id "5f0c...", reason NULL
    {CustomerID: "17850.0", StockCode: NULL, ...}
      ->  reason "missing_item_id", raw "{...}"

Ids stay text exactly as found: `1` and `01` are two. Times are UTC.
"""

from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from recspark.config.source import ColumnMap, SourceConfig
from recspark.contracts import columns as c
from recspark.sources.problems import find_flaw, first_problem, is_blank
from recspark.sources.rows import BAD_LINE, ROW, source_column, source_names, source_type
from recspark.sources.rules import DROPPED_BY, add_dropped_by, content_hash, number_text, row_hash, struct_text
from recspark.sources.times import read_time, start_of_day
from recspark.sources.wanted import IMPOSSIBLE_TIME, UNREADABLE_TIME, check_columns, event_columns, name_source

if TYPE_CHECKING:
    from recspark.sources.earlier import EarlierRows

EVENT_COLUMNS = (c.USER_ID, c.ITEM_ID, c.TS, c.EVENT_TYPE, c.WEIGHT, c.BASKET_ID, c.SPLIT)
"""What an event's hash covers."""

REPEATED_EVENT_ID = "repeated_event_id"
REPLACES_EARLIER = "replaces_earlier_event"
"""The reason of new rows that would be kept in place of an event that an earlier increment kept: no row is refused by
it, but the source has to be read in full.
"""
_EVENT_ID_CHARS = 32
LARGEST_FLOAT = 3.4e38
_NUM_POSITIONS = 2**31
_COPY = "_copy"
_GIVEN_ID = "_given_id"
_KNOWN_ID, _KNOWN_HASH, _KNOWN_COPIES = "_known_id", "_known_hash", "_known_copies"


def check_mapping(rows: DataFrame, source: SourceConfig, columns: ColumnMap) -> None:
    """Checks that all columns the config names are there.

    Raises: SourceError naming what is missing and what exists.
    """
    check_columns(source_names(rows), event_columns(columns, source.rules), name_source(source))


def map_rows(
    rows: DataFrame, source: SourceConfig, columns: ColumnMap, earlier: "EarlierRows | None" = None
) -> DataFrame:
    """Rows in the common shape to events with ``dropped_by``, ``reason``, ``raw`` and ``source_file``.

    A row is kept when both ``dropped_by`` and ``reason`` are NULL; ``raw`` is set where ``reason`` is. One shuffle, by
    user and item, serves both the duplicates rule and the numbering of equal events. With ``earlier`` rows the outcome
    is that of a mapping of all rows at once, as far as these are concerned.
    """
    ids = {c.USER_ID: _text(columns.user_id), c.ITEM_ID: _text(columns.item_id)}
    together = rows.withColumns(ids).repartition(c.USER_ID, c.ITEM_ID)
    ruled = add_dropped_by(together, source.rules, earlier.row_hashes if earlier else None)
    mapped = ruled.withColumns(_mapped_columns(rows, source, columns))
    reason = F.when(F.col(DROPPED_BY).isNull(), _find_reason(mapped, source, columns))
    identified = _add_event_ids(mapped.withColumn(c.REASON, reason), columns, earlier)
    raw = F.when(F.col(c.REASON).isNotNull(), F.coalesce(F.col(BAD_LINE), struct_text(F.col(ROW))))
    return identified.select(
        c.EVENT_ID, *EVENT_COLUMNS, F.to_date(c.TS).alias(c.DAY), DROPPED_BY, c.REASON, raw.alias(c.RAW), c.SOURCE_FILE,
        c.ROW_HASH,
    )  # fmt: skip


def _text(name: str | None) -> Column:
    return F.lit(None).cast("string") if name is None else source_column(name).cast("string")


def _mapped_columns(rows: DataFrame, source: SourceConfig, columns: ColumnMap) -> dict[str, Column]:
    """The event columns but the ids; what cannot be read is NULL here and told by its reason."""
    event_type = _text(columns.event_type)
    has_type = event_type.isNotNull() & ~is_blank(event_type)
    weight = F.lit(1.0) if columns.weight is None else number_text(_text(columns.weight))
    has_hash = columns.event_id is not None or any(rule.duplicates for rule in source.rules)
    return {
        c.TS: event_time(rows, source, columns),
        c.ROW_HASH: row_hash() if has_hash else F.lit(None).cast("binary"),
        c.EVENT_TYPE: F.when(has_type, event_type).otherwise(F.lit(source.default_event_type)),
        c.WEIGHT: F.when(weight < LARGEST_FLOAT, weight).cast("float"),
        c.BASKET_ID: _text(columns.basket_id),
        c.SPLIT: _text(columns.split),
        _GIVEN_ID: _text(columns.event_id),
    }


def event_time(rows: DataFrame, source: SourceConfig, columns: ColumnMap) -> Column:
    """When the event of a row in the common shape was, NULL where that cannot be read."""
    if columns.ts is not None:
        settings = source.model_copy(update={"columns": columns})
        return read_time(source_column(columns.ts), source_type(rows, columns.ts), settings)
    if columns.position is None:
        return F.timestamp_seconds(F.lit(0))
    place = number_text(_text(columns.position))
    is_place = (place >= 0) & (place < _NUM_POSITIONS) & (place == F.floor(place))
    return F.timestamp_seconds(F.when(is_place, place).cast("bigint"))


def _find_reason(mapped: DataFrame, source: SourceConfig, columns: ColumnMap) -> Column:
    """The first reason that keeps a row from being an event, NULL where there is none."""
    flaws = [find_flaw(mapped, name, source.max_id_bytes) for name in (c.USER_ID, c.ITEM_ID)]
    problems = _time_problems(source, columns)
    if columns.weight is not None:
        text = _text(columns.weight)
        problems += [
            (text.isNull() | is_blank(text), "missing_weight"),
            (F.col(c.WEIGHT).isNull(), "unreadable_weight"),
            (F.col(c.WEIGHT) < 0, "negative_weight"),
        ]
    if columns.event_id is not None:
        problems.append((F.col(_GIVEN_ID).isNull() | is_blank(F.col(_GIVEN_ID)), "missing_event_id"))
    if columns.split is not None:
        problems.append((F.col(c.SPLIT).isNull() | ~F.col(c.SPLIT).isin(*c.SPLITS), "unknown_split"))
    is_bad_line = F.when(F.col(BAD_LINE).isNotNull(), F.lit("unparsable_line"))
    return F.coalesce(is_bad_line, *flaws, *([first_problem(problems)] if problems else []))


def _time_problems(source: SourceConfig, columns: ColumnMap) -> list[tuple[Column, str]]:
    if columns.position is not None:
        return [(F.col(c.TS).isNull(), "unreadable_position")]
    if columns.ts is None:
        return []
    text = _text(columns.ts)
    earliest = F.lit(start_of_day(source.earliest))
    latest = F.lit(start_of_day(source.latest))
    return [
        (text.isNull() | is_blank(text), "missing_time"),
        (F.col(c.TS).isNull(), UNREADABLE_TIME),
        ((F.col(c.TS) < earliest) | (F.col(c.TS) >= latest), IMPOSSIBLE_TIME),
    ]


def _add_event_ids(mapped: DataFrame, columns: ColumnMap, earlier: "EarlierRows | None") -> DataFrame:
    """Adds ``event_id``: the given one, refused when it comes again, or a hash; equal events are numbered."""
    good = F.col(c.REASON).isNull() & F.col(DROPPED_BY).isNull()
    if columns.event_id is not None:
        return _check_given_ids(mapped, good, earlier)
    values = [F.unix_micros(c.TS).alias(c.TS) if name == c.TS else F.col(name) for name in EVENT_COLUMNS]
    digest = F.substring(F.sha2(struct_text(F.struct(*values)), 256), 1, _EVENT_ID_CHARS)
    equal = Window.partitionBy(c.USER_ID, c.ITEM_ID, "_digest", "_good").orderBy(c.SOURCE_FILE)
    numbered = mapped.withColumn("_good", good).withColumn("_digest", digest)
    numbered = numbered.withColumn(_COPY, F.row_number().over(equal))
    if earlier:
        first_copy = F.substring(c.EVENT_ID, 1, _EVENT_ID_CHARS).alias("_digest")
        known = earlier.events.groupBy(first_copy).agg(F.count("*").cast("int").alias(_KNOWN_COPIES))
        numbered = numbered.join(known, "_digest", "left")
        numbered = numbered.withColumn(_COPY, F.col(_COPY) + F.coalesce(_KNOWN_COPIES, F.lit(0)))
    again = F.concat_ws("-", F.col("_digest"), F.col(_COPY).cast("string"))
    return numbered.withColumn(c.EVENT_ID, F.when(F.col(_COPY) == 1, F.col("_digest")).otherwise(again))


def _check_given_ids(mapped: DataFrame, good: Column, earlier: "EarlierRows | None") -> DataFrame:
    """Adds the given ``event_id``; of good rows with one id that of the smallest hash is kept, so that reruns agree."""
    # Only good rows are told apart: the others are spread, as those without an id must not meet in one task.
    spread = F.when(~good, F.xxhash64(F.coalesce(F.col(BAD_LINE), struct_text(F.col(ROW)))))
    same = Window.partitionBy(_GIVEN_ID, "_spread").orderBy(content_hash())
    numbered = mapped.withColumn("_spread", spread).withColumn(_COPY, F.row_number().over(same))
    reason = F.when(good & (F.col(_COPY) > 1), F.lit(REPEATED_EVENT_ID)).otherwise(F.col(c.REASON))
    if earlier:
        known = earlier.events.select(F.col(c.EVENT_ID).alias(_KNOWN_ID), F.col(c.ROW_HASH).alias(_KNOWN_HASH))
        numbered = numbered.join(known, F.when(good, F.col(_GIVEN_ID)) == F.col(_KNOWN_ID), "left")
        is_before = F.col(c.ROW_HASH) < F.col(_KNOWN_HASH)
        fate = F.when(is_before, F.lit(REPLACES_EARLIER)).otherwise(F.lit(REPEATED_EVENT_ID))
        reason = F.when(F.col(_KNOWN_ID).isNotNull(), fate).otherwise(reason)
    return numbered.withColumn(c.REASON, reason).withColumn(c.EVENT_ID, F.col(_GIVEN_ID))
