"""Named, counted filters on events: each row gets the reason why it is left out, or none.

in   events
out  the same rows with weights multiplied by `clean.event_weights` and `_reason`: null = kept, `bad_split` or
     `no_basket_id` = quarantined, else the name of the filter that dropped it (the first that takes a row counts it)
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recspark.config import RunConfig
from recspark.config.schema import CleanConfig
from recspark.contracts import columns as c

REASON = "_reason"
RAW_EVENT = "_raw"
"""The row as JSON where it is quarantined, else null."""

BAD_SPLIT = "bad_split"
NO_BASKET_ID = "no_basket_id"
QUARANTINE_REASONS = (BAD_SPLIT, NO_BASKET_ID)

EVENT_TYPES = "event_types"
EVENT_WEIGHTS = "event_weights"
BOT_USERS = "bot_users"
FLOOD_USERS = "flood_users"
RARE_USERS = "rare_users"
RARE_ITEMS = "rare_items"
"""Counted where the vocabulary is built: train events of items with too few of them."""

_MINUTE_US = 60_000_000
_COUNTS = ("num_all", "num_before", "num_minute_all", "num_minute_before")


def mark_refused_events(events: DataFrame, config: RunConfig) -> DataFrame:
    """Events with the reasons that a row carries in itself, and their final weights."""
    factor = _weight_factor(config.clean)
    is_other_type = F.lit(False)
    if config.clean.event_types is not None:
        is_other_type = ~F.col(c.EVENT_TYPE).isin(*config.clean.event_types)
    reason = F.coalesce(
        F.when(_has_bad_split(config), BAD_SPLIT),
        F.when(_lacks_basket(config), NO_BASKET_ID),
        F.when(is_other_type, EVENT_TYPES),
        F.when(factor == 0, EVENT_WEIGHTS),
    )
    is_quarantined = F.col(REASON).isin(*QUARANTINE_REASONS)
    return (
        events.withColumn(REASON, reason)
        .withColumn(RAW_EVENT, F.when(is_quarantined, F.to_json(F.struct(*events.columns))))
        .withColumn(c.WEIGHT, (F.col(c.WEIGHT) * factor).cast("float"))
    )


def _has_bad_split(config: RunConfig) -> Column:
    if config.split.kind != "given":
        return F.lit(False)
    return ~F.coalesce(F.col(c.SPLIT), F.lit("")).isin(*c.SPLITS)


def _lacks_basket(config: RunConfig) -> Column:
    return F.col(c.BASKET_ID).isNull() if config.sessions.group_by == "basket" else F.lit(False)


def _weight_factor(clean: CleanConfig) -> Column:
    factor = F.lit(1.0)
    for event_type, weight in clean.event_weights.items():
        factor = F.when(F.col(c.EVENT_TYPE) == event_type, F.lit(weight)).otherwise(factor)
    return factor


def drop_users(events: DataFrame, clean: CleanConfig, has_time_cut: bool) -> DataFrame:
    """Kept events of bots, floods and rare users get their reason.

    With a time cut, events before it are judged by the user's events before it, test events by all: what comes later
    must not decide what is learned from. Without one (`given`, `leave_last_out`) all events count.
    """
    if clean.max_user_events is None and clean.max_events_per_minute is None and clean.min_user_events == 1:
        return events
    judged = _judge_users(_count_user_events(events, clean), clean, has_time_cut)
    of_side = F.when(F.col(c.SPLIT) == c.TEST, F.col("_reason_all")).otherwise(F.col("_reason_before"))
    is_kept = F.col(REASON).isNull()
    return (
        events.join(judged, c.USER_ID, "left")
        .withColumn(REASON, F.when(is_kept, of_side).otherwise(F.col(REASON)))
        .drop("_reason_all", "_reason_before")
    )


def _count_user_events(events: DataFrame, clean: CleanConfig) -> DataFrame:
    """Each user's number of kept events and his most in one UTC minute, of all splits and without test."""
    minute = F.lit(0) if clean.max_events_per_minute is None else F.expr(f"unix_micros({c.TS}) div {_MINUTE_US}")
    is_before = F.when(F.col(c.SPLIT) != c.TEST, 1)
    per_minute = (
        events.where(F.col(REASON).isNull())
        .groupBy(c.USER_ID, minute.alias("minute"))
        .agg(F.count("*").alias("num_all"), F.count(is_before).alias("num_before"))
    )
    sums = [F.sum(n).alias(n) for n in _COUNTS[:2]]
    peaks = [F.max(n).alias(p) for n, p in zip(_COUNTS[:2], _COUNTS[2:], strict=True)]
    return per_minute.groupBy(c.USER_ID).agg(*sums, *peaks)


def _judge_users(counts: DataFrame, clean: CleanConfig, has_time_cut: bool) -> DataFrame:
    """Only the users with a reason: user_id, reason by all events, reason by the events before the cut."""
    by_all = _user_reason(F.col("num_all"), F.col("num_minute_all"), clean)
    by_before = _user_reason(F.col("num_before"), F.col("num_minute_before"), clean) if has_time_cut else by_all
    judged = counts.select(c.USER_ID, by_all.alias("_reason_all"), by_before.alias("_reason_before"))
    return judged.where(F.col("_reason_all").isNotNull() | F.col("_reason_before").isNotNull())


def _user_reason(num_events: Column, most_a_minute: Column, clean: CleanConfig) -> Column:
    reasons = []
    if clean.max_user_events is not None:
        reasons.append(F.when(num_events > clean.max_user_events, BOT_USERS))
    if clean.max_events_per_minute is not None:
        reasons.append(F.when(most_a_minute > clean.max_events_per_minute, FLOOD_USERS))
    return F.coalesce(*reasons, F.when(num_events < clean.min_user_events, RARE_USERS))
