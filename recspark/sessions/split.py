"""Which part of the split an event belongs to. One global cut, before any count, vocabulary, graph or negative table.

in   events (`split` null, or the source's own part)
out  the same rows with `split`: train, valid, test or context; rows left out already take no part in any rule

Rules that count a user's events use the total order (ts, event_id):
- `leave_last_out`: the last event is test; a user of a single event stays in train.
- `valid.last_k`: the last k train events; one always stays in train.
- `valid.user_share`: a share of the user's distinct train items, those with the smallest hash of (seed, user, item),
  with all of their train events. A part of an item is rounded up or down by a hash of (seed, user), so that users
  with short histories are measured too; one item always stays in train.
"""

import datetime as dt

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recspark.config.schema import SplitConfig, ValidConfig
from recspark.contracts import columns as c
from recspark.errors import ConfigError
from recspark.sessions.clean import REASON

_SEPARATOR = "\x1f"
_HASH_DIGITS = 8  # hex digits of a hash that make a number in [0, 1)


def parse_time_us(text: str, where: str) -> int:
    """Microseconds since the epoch of an ISO time; UTC where it names no zone.

    Raises: ConfigError naming the key ``where``.
    """
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is not an ISO time such as 2026-02-16 or 2026-02-16T12:00:00Z") from error
    if time.tzinfo is None:
        time = time.replace(tzinfo=dt.UTC)
    return (time - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def event_order(order: str) -> tuple[str, ...]:
    """Columns of the total order of a user's events, by the source's order (``time``, ``position`` or ``none``).

    The item stands last only so that the order stays total should two events share an id. Unordered sources, whose
    times are all equal, are sorted by item.
    """
    return (c.TS, c.ITEM_ID, c.EVENT_ID) if order == "none" else (c.TS, c.EVENT_ID, c.ITEM_ID)


def add_split(events: DataFrame, config: SplitConfig, order: str) -> DataFrame:
    """Events with their split."""
    given = "_given_split"
    events = events.withColumn(given, F.col(c.SPLIT))
    events = _cut_test(events, config, order)
    if config.valid:
        is_train = F.col(REASON).isNull() & (F.col(c.SPLIT) == c.TRAIN)
        events = events.withColumn("_is_train", is_train)
        events = _cut_valid(events, config.valid, order).drop("_is_train")
    return events.drop(given)


def _cut_test(events: DataFrame, config: SplitConfig, order: str) -> DataFrame:
    if config.kind == "given":
        return events
    if config.kind == "time":
        assert config.cut
        return events.withColumn(c.SPLIT, _if(is_from(config.cut, "split.cut"), c.TEST, F.lit(c.TRAIN)))
    events = events.withColumn("_is_kept", F.col(REASON).isNull())
    from_last, num_events = _place_from_last(["_is_kept"], order)
    is_test = (from_last == 1) & (num_events > 1)
    return events.withColumn(c.SPLIT, _if(is_test, c.TEST, F.lit(c.TRAIN))).drop("_is_kept")


def _cut_valid(events: DataFrame, valid: ValidConfig, order: str) -> DataFrame:
    """Train events chosen by the rule become valid; ``_is_train`` marks the kept ones."""
    is_train = F.col("_is_train")
    if valid.kind == "user_share":
        return _cut_user_share(events, valid)
    if valid.kind == "last_k":
        from_last, num_events = _place_from_last(["_is_train"], order)
        is_valid = from_last <= F.least(F.lit(valid.k), num_events - 1)
    elif valid.kind == "time":
        assert valid.cut
        is_valid = is_from(valid.cut, "split.valid.cut")
    else:
        is_valid = F.coalesce(F.col("_given_split") == c.VALID, F.lit(False))
    return events.withColumn(c.SPLIT, _if(is_train & is_valid, c.VALID, F.col(c.SPLIT)))


def _cut_user_share(events: DataFrame, valid: ValidConfig) -> DataFrame:
    user = Window.partitionBy(c.USER_ID, "_is_train")
    by_hash = user.orderBy(_hash(valid.seed, c.USER_ID, c.ITEM_ID), c.ITEM_ID)
    draw = F.conv(F.substring(_hash(valid.seed, c.USER_ID), 1, _HASH_DIGITS), 16, 10).cast("long") / 16**_HASH_DIGITS
    num_items = F.col("_num_items")
    num_valid = F.least(F.floor(num_items * valid.fraction + draw), num_items - 1)
    is_valid = F.col("_is_train") & (F.col("_item_place") <= num_valid)
    return (
        events.withColumn("_item_place", F.dense_rank().over(by_hash))
        .withColumn("_num_items", F.max("_item_place").over(user))
        .withColumn(c.SPLIT, _if(is_valid, c.VALID, F.col(c.SPLIT)))
        .drop("_item_place", "_num_items")
    )


def _hash(seed: int, *ids: str) -> Column:
    """Hex digits that any machine and any language can repeat: MD5 of the parts, joined by a unit separator."""
    return F.md5(F.concat_ws(_SEPARATOR, F.lit(str(seed)), *ids))


def _place_from_last(groups: list[str], order: str) -> tuple[Column, Column]:
    """(1 for the user's last event of its group, 2 for the one before, ...; number of events in the group)."""
    user = Window.partitionBy(c.USER_ID, *groups)
    latest_first = user.orderBy(*[F.desc(name) for name in event_order(order)])
    return F.row_number().over(latest_first), F.count("*").over(user)


def is_from(time: str, where: str) -> Column:
    """Whether an event is from a time on."""
    return F.col(c.TS) >= F.timestamp_micros(F.lit(parse_time_us(time, where)))


def _if(condition: Column, split: str, otherwise: Column) -> Column:
    return F.when(condition, F.lit(split)).otherwise(otherwise)
