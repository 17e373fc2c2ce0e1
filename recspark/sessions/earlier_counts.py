"""Counts of an earlier version: what its record and its rows say, in the form of `counts`."""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recspark.contracts import columns as c
from recspark.sessions.clean import RARE_ITEMS
from recspark.sessions.counts import EventCounts, count_by_split
from recspark.sessions.split import parse_time_us


def events_of_record(counts: dict[str, Any], time_range_us: tuple[int, int]) -> EventCounts:
    """The event counts that `build_counts` has made counts of."""
    dropped = dict(counts["dropped"])
    rare = dropped.pop(RARE_ITEMS, 0)
    kept = {split: counts["events"].get(split, 0) + (rare if split == c.TRAIN else 0) for split in c.SPLITS}
    return EventCounts(kept, dropped, counts["dropped_users"], counts["quarantined"], time_range_us)


def shift_time_range(
    texts: Sequence[str], before: tuple[int, int] | None, now: tuple[int, int] | None
) -> tuple[int, int] | None:
    """First and last time of all kept events once those of some users have changed.

    ``texts`` are the earlier ones as ISO times, ``before`` and ``now`` these users'. None where an end of the range was
    theirs and is theirs no longer: others' events would have to be looked at.
    """
    first, last = (parse_time_us(text, "time_range") for text in texts)
    ends = now or (last + 1, first - 1)
    if before and ((before[0] <= first < ends[0]) or (before[1] >= last > ends[1])):
        return None
    return min(first, ends[0]), max(last, ends[1])


def count_stored_sessions(sessions: DataFrame, histories: DataFrame) -> dict[str, dict[str, int]]:
    """What `count_sessions` counts, from rows of the tables: nothing is collapsed in `user_histories`."""
    rows = (
        sessions.groupBy(c.SPLIT)
        .agg(F.count("*").alias("sessions"), F.sum(F.size(c.ITEM_IDX)).alias("collapsed_to"))
        .collect()
    )
    numbers = count_by_split(F.size(c.ITEM_IDX))
    events = histories.agg(*[F.sum(number).alias(split) for split, number in numbers.items()]).collect()[0]
    return {row[c.SPLIT]: row.asDict() | {"events": events[row[c.SPLIT]]} for row in rows}
