"""Where every event went: counted once, checked before anything is committed, and again for the sum at the end."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from recspark.config import RunConfig
from recspark.contracts import columns as c
from recspark.errors import DataError
from recspark.sessions.clean import QUARANTINE_REASONS, RARE_ITEMS, REASON
from recspark.sessions.sessionize import NUM_EVENTS
from recspark.sessions.vocabulary import TRAIN_EVENTS

MAX_EVENT_TYPES = 127
"""Codes are stored as tinyint."""
_MIN_ACTIVE_ITEMS = 2
NO_VOCABULARY = {"num_items": 0, "num_active_items": 0, "num_rare_items": 0, "rare_events": 0}
"""What `count_vocabulary` counts, without any item."""


@dataclass(frozen=True)
class EventCounts:
    """Events by fate: ``kept`` by split, the others by reason; ``time_range_us`` of the kept ones, both inclusive."""

    kept: dict[str, int]
    dropped: dict[str, int]
    dropped_users: dict[str, int]
    quarantined: dict[str, int]
    time_range_us: tuple[int, int] | None

    @property
    def num_kept(self) -> int:
        """Kept events of all splits."""
        return sum(self.kept.values())

    @property
    def num_in(self) -> int:
        """All events read."""
        return self.num_kept + sum(self.dropped.values()) + sum(self.quarantined.values())


def count_events(prepared: DataFrame) -> EventCounts:
    """One pass over the events, first a row each reason and user, then a row each reason."""
    ts_us = F.unix_micros(c.TS)
    splits = [F.count(F.when(F.col(c.SPLIT) == split, 1)).alias(split) for split in c.SPLITS]
    by_user = prepared.groupBy(REASON, c.USER_ID).agg(
        F.count("*").alias("events"), F.min(ts_us).alias("first"), F.max(ts_us).alias("last"), *splits
    )
    sums = [F.sum(name).alias(name) for name in ("events", *c.SPLITS)]
    by_reason = by_user.groupBy(REASON).agg(
        F.count("*").alias("users"), F.min("first").alias("first"), F.max("last").alias("last"), *sums
    )
    rows: dict[str | None, Row] = {row[REASON]: row for row in by_reason.collect()}
    kept = rows.pop(None, None)
    dropped = {reason: row for reason, row in rows.items() if reason not in QUARANTINE_REASONS}
    return EventCounts(
        kept={split: kept[split] if kept else 0 for split in c.SPLITS},
        dropped={str(reason): row["events"] for reason, row in sorted(dropped.items())},
        dropped_users={str(r): row["users"] for r, row in sorted(dropped.items()) if str(r).endswith("_users")},
        quarantined={str(r): row["events"] for r, row in sorted(rows.items()) if r in QUARANTINE_REASONS},
        time_range_us=(kept["first"], kept["last"]) if kept else None,
    )


def check_events(counts: EventCounts, config: RunConfig) -> None:
    """Checks that there is something to learn from and something to score.

    Raises: DataError with the counts, the times found and what to change.
    """
    if counts.num_in == 0:
        raise DataError("sessions: the events table is empty; look at the source and at source.rules")
    num_bad = sum(counts.quarantined.values())
    if num_bad > config.source.max_bad_ratio * counts.num_in:
        raise DataError(
            f"sessions: {num_bad:,} of {counts.num_in:,} events would be quarantined ({_show(counts.quarantined)}), "
            f"more than source.max_bad_ratio {config.source.max_bad_ratio:g}: a `split` must be one of "
            f"{', '.join(c.SPLITS)}, and sessions.group_by basket needs a basket_id in every row"
        )
    if counts.num_kept == 0:
        raise DataError(f"clean: none of {counts.num_in:,} events is left ({_show(counts.dropped)}); loosen `clean`")
    needed = {c.TRAIN} | ({c.VALID} if config.split.valid else set())
    needed |= {config.evaluate.split} if config.evaluate else set()
    if missing := [split for split in c.SPLITS if split in needed and not counts.kept[split]]:
        raise DataError(_describe_empty_split(missing, counts, config))


def _describe_empty_split(missing: list[str], counts: EventCounts, config: RunConfig) -> str:
    split, valid = config.split, config.split.valid
    assert counts.time_range_us
    first, last = map(iso_time, counts.time_range_us)
    if missing == [c.VALID] and valid:
        advice = {
            "time": f"split.valid.cut is {valid.cut}: it must lie before the test part and after the first event",
            "given": f"the source's split column never says {c.VALID}",
            "last_k": "no user has two train events",
            "user_share": f"raise split.valid.fraction ({valid.fraction:g}); users of one train item give none",
        }[valid.kind]
    else:
        advice = {
            "time": f"split.cut is {split.cut}: move it into that range",
            "given": f"the source's split column never says {' or '.join(missing)}",
            "leave_last_out": "no user has two events; use split.kind time or given",
        }[split.kind]
    if missing == [c.TEST]:
        advice += ", or set evaluate: null to learn from everything"
    found = ", ".join(f"{split} {number:,}" for split, number in counts.kept.items())
    return f"split: {' and '.join(missing)} would be empty; events: {found}, from {first} to {last}; {advice}"


def find_event_types(prepared: DataFrame, known: Sequence[str] = ()) -> list[str]:
    """The types ``known`` from an earlier version, then the other kept ones, sorted: a type's place is its code.

    Raises: DataError when a tinyint cannot number them.
    """
    kept = prepared.where(F.col(REASON).isNull()).select(c.EVENT_TYPE).distinct().orderBy(c.EVENT_TYPE)
    found = [row[0] for row in kept.limit(MAX_EVENT_TYPES + 1).collect()]
    types = [*known, *(name for name in found if name not in known)]
    if len(types) > MAX_EVENT_TYPES:
        raise DataError(
            f"sessions: more than {MAX_EVENT_TYPES} event types ({', '.join(types[:3])}, ...); is "
            f"source.columns.event_type the right column? Name the types to keep in clean.event_types"
        )
    return types


def count_vocabulary(items: DataFrame, min_item_events: int) -> dict[str, int]:
    """Numbers of items, of active and of rare ones, and the train events of the rare.

    Raises: DataError when fewer than two items are active.
    """
    is_rare = (F.col(TRAIN_EVENTS) > 0) & ~F.col(c.ACTIVE)
    row = items.agg(
        F.count("*").alias("num_items"),
        F.count(F.when(F.col(c.ACTIVE), 1)).alias("num_active_items"),
        F.count(F.when(is_rare, 1)).alias("num_rare_items"),
        F.sum(F.when(is_rare, F.col(TRAIN_EVENTS)).otherwise(0)).alias("rare_events"),
        F.max(TRAIN_EVENTS).alias("most"),
    ).collect()[0]
    check_vocabulary(row["num_active_items"], row["most"], min_item_events)
    return {n: row[n] for n in NO_VOCABULARY}


def check_vocabulary(num_active: int, most: int, min_item_events: int) -> None:
    """Checks that there are items to tell apart; ``most`` is the largest number of train events of an item.

    Raises: DataError when fewer than two items are active.
    """
    if num_active < _MIN_ACTIVE_ITEMS:
        raise DataError(
            f"vocabulary: {num_active} items have at least {min_item_events} train events, "
            f"{_MIN_ACTIVE_ITEMS} are needed; the most any item has is {most:,}: lower "
            "vocabulary.min_item_events, or learn from more events"
        )


def count_rare_events(prepared: DataFrame, items: DataFrame, min_item_events: int) -> int:
    """Kept train events of items that are not active, of which there are none where one event is enough."""
    if min_item_events == 1:
        return 0
    train = prepared.where(F.col(REASON).isNull() & (F.col(c.SPLIT) == c.TRAIN))
    return train.join(items.where(~F.col(c.ACTIVE)).select(c.ITEM_ID), c.ITEM_ID, "left_semi").count()


def count_sessions(sessions: DataFrame) -> dict[str, dict[str, int]]:
    """By split: sessions, the events they were made from, and the events they hold after collapsing."""
    rows = (
        sessions.groupBy(c.SPLIT)
        .agg(
            F.count("*").alias("sessions"),
            F.sum(NUM_EVENTS).alias("events"),
            F.sum(F.size(c.ITEM_IDX)).alias("collapsed_to"),
        )
        .collect()
    )
    return {row[c.SPLIT]: row.asDict() for row in sorted(rows, key=lambda row: c.SPLITS.index(row[c.SPLIT]))}


def count_users(histories: DataFrame) -> dict[str, int]:
    """Users, those with events in each split, and the events of all histories."""
    length = F.size(c.ITEM_IDX)
    with_events = [F.count(F.when(number > 0, 1)).alias(split) for split, number in count_by_split(length).items()]
    total = F.coalesce(F.sum(length), F.lit(0))
    row = histories.agg(F.count("*").alias("num_users"), total.alias("events"), *with_events).collect()[0]
    found: dict[str, int] = row.asDict()
    return found


def count_by_split(length: Column) -> dict[str, Column]:
    """The events that a history of some length has in each split."""
    num_test = length - F.col(c.NUM_TRAIN) - F.col(c.NUM_VALID) - F.col(c.NUM_CONTEXT)
    return {c.TRAIN: F.col(c.NUM_TRAIN), c.VALID: F.col(c.NUM_VALID), c.TEST: num_test, c.CONTEXT: F.col(c.NUM_CONTEXT)}


def build_counts(
    events: EventCounts, vocabulary: dict[str, int], sessions: dict[str, dict[str, int]], users: dict[str, int]
) -> dict[str, Any]:
    """The counts of the marker record: events_in = kept + dropped + quarantined, and kept holds the collapsed.

    Raises: RuntimeError when they don't add up, which is our own mistake.
    """
    rare = {RARE_ITEMS: vocabulary["rare_events"]} if vocabulary["rare_events"] else {}
    kept = {split: row["events"] for split, row in sessions.items()}
    expected = {s: n - (sum(rare.values()) if s == c.TRAIN else 0) for s, n in events.kept.items()}
    if kept != {s: n for s, n in expected.items() if n} or users["events"] != sum(kept.values()):
        raise RuntimeError(
            f"sessions: events don't add up: expected {expected} after cleaning, found {kept} in sessions and "
            f"{users['events']} in histories"
        )
    collapsed_to = sum(row["collapsed_to"] for row in sessions.values())
    return {
        "events_in": events.num_in,
        "kept": sum(kept.values()),
        "dropped": events.dropped | rare,
        "quarantined": events.quarantined,
        "collapsed": sum(kept.values()) - collapsed_to,
        "dropped_users": events.dropped_users,
        "num_rare_items": vocabulary["num_rare_items"],
        "num_sessions": sum(row["sessions"] for row in sessions.values()),
        "num_users": users["num_users"],
        "num_items": vocabulary["num_items"],
        "num_active_items": vocabulary["num_active_items"],
        "events": kept,
        "sessions": {split: row["sessions"] for split, row in sessions.items()},
        "users": {split: users[split] for split in c.SPLITS if users[split]},
    }


def iso_time(ts_us: int) -> str:
    """ISO form of microseconds since the epoch, UTC."""
    return (dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=ts_us)).isoformat()


def _show(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items()) or "nothing"
