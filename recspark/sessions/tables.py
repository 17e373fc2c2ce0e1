"""events -> the frames of the stage's tables, nothing written: cleaning, split, ids, histories, sessions.

Three frames are held: the prepared events (read for counts, vocabulary and grouping), the events grouped by user, and
what the kernels make of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recspark.config import RunConfig
from recspark.contracts import columns as c
from recspark.logs import log
from recspark.sessions.by_user import find_first_users, map_users, sort_by_user
from recspark.sessions.clean import QUARANTINE_REASONS, REASON, drop_users, mark_refused_events
from recspark.sessions.counts import (
    build_counts,
    check_events,
    count_events,
    count_sessions,
    count_users,
    count_vocabulary,
    find_event_types,
    iso_time,
)
from recspark.sessions.histories import HISTORY_SCHEMA, build_histories
from recspark.sessions.sessionize import (
    END_US,
    ORDINAL,
    SESSION_SCHEMA,
    START_US,
    build_sessions_of,
    plan_rules,
)
from recspark.sessions.split import add_split, event_order
from recspark.sessions.vocabulary import build_items, count_items

STAGE = "sessions"
_SESSION_ID_DIGITS = 24  # 96 bits: 10^9 sessions collide with probability 10^-11
Hold = Callable[[DataFrame], DataFrame]
"""Keeps a frame that is read more than once, and returns it."""


@dataclass(frozen=True)
class SessionTables:
    """What the stage commits; ``refused`` are the prepared events that go to quarantine."""

    refused: DataFrame
    items: DataFrame
    users: DataFrame
    histories: DataFrame
    sessions: DataFrame
    counts: dict[str, Any]
    facts: dict[str, Any]


def prepare_events(events: DataFrame, config: RunConfig) -> DataFrame:
    """Events with split and reason: what is refused by itself, the split, then whole users."""
    marked = add_split(mark_refused_events(events, config), config.split, config.source.order)
    return drop_users(marked, config.clean, has_time_cut=config.split.kind == "time")


@contextmanager
def holding() -> Iterator[Hold]:
    """Frames held in memory, or on disk where that is short, until the stage ends."""
    held: list[DataFrame] = []

    def hold(frame: DataFrame) -> DataFrame:
        held.append(frame.persist(StorageLevel.MEMORY_AND_DISK))
        return held[-1]

    try:
        yield hold
    finally:
        for frame in reversed(held):
            frame.unpersist()


def settle(frame: DataFrame) -> DataFrame:
    """The frame's rows, computed now and cut off from how they came about; freed when nobody refers to them.

    An increment makes frames of frames many times over. Held ones would stand in each plan with the plans of all that
    they were made of, which doubles with each step. An executor that is lost takes its rows along: the stage fails
    then, with nothing committed.
    """
    return frame.localCheckpoint(eager=True, storageLevel=StorageLevel.MEMORY_AND_DISK)


def build_tables(events: DataFrame, feature_items: DataFrame | None, config: RunConfig, hold: Hold) -> SessionTables:
    """All tables of the stage, without features; counted and checked, not yet written.

    ``feature_items`` holds the item ids known by features, which become items of no event.

    Raises: DataError as `build_sessions`.
    """
    prepared = hold(prepare_events(events, config))
    event_counts = count_events(prepared)
    check_events(event_counts, config)
    event_types = find_event_types(prepared)
    _log_absent_types(config, event_types)

    min_item_events = config.vocabulary.min_item_events
    items = hold(build_items(count_items(prepared), feature_items, min_item_events))
    vocabulary = count_vocabulary(items, min_item_events)

    histories, sessions = build_user_rows(prepared, items, event_types, config, hold)
    counts = build_counts(event_counts, vocabulary, count_sessions(sessions), count_users(histories))
    return SessionTables(
        refused=prepared.where(F.col(REASON).isin(*QUARANTINE_REASONS)),
        items=items,
        users=build_users(histories),
        histories=histories,
        sessions=name_sessions(sessions),
        counts=counts,
        facts=build_facts(config, event_types, event_counts.time_range_us),
    )


def build_user_rows(
    prepared: DataFrame, items: DataFrame, event_types: Sequence[str], config: RunConfig, hold: Hold
) -> tuple[DataFrame, DataFrame]:
    """Rows of ``HISTORY_SCHEMA`` and of ``SESSION_SCHEMA``; ``user_idx`` counts the users of ``prepared``."""
    by_basket, order = config.sessions.group_by == "basket", config.source.order
    known = hold(sort_by_user(prepared, items, event_types, event_order(order), by_basket))
    first_users = find_first_users(known)
    histories = hold(map_users(known, first_users, build_histories, HISTORY_SCHEMA))
    cut = partial(build_sessions_of, rules=plan_rules(config.sessions, order))
    return histories, hold(map_users(known, first_users, cut, SESSION_SCHEMA))


def build_facts(config: RunConfig, event_types: list[str], time_range_us: tuple[int, int] | None) -> dict[str, Any]:
    """What readers need beside counts; ``time_range_us`` of the kept events."""
    assert time_range_us
    return {
        "event_types": event_types,
        "cut": config.split.cut,
        "order": config.source.order,
        "time_range": [iso_time(t) for t in time_range_us],
    }


def _log_absent_types(config: RunConfig, event_types: list[str]) -> None:
    named = {*(config.clean.event_types or ()), *(t for t, w in config.clean.event_weights.items() if w > 0)}
    if absent := sorted(named - set(event_types)):
        log(STAGE, "clean names event types of which no event is kept", types=", ".join(absent))


def build_users(histories: DataFrame) -> DataFrame:
    """The table `users`: everyone with a kept event; ``user_idx`` follows the order of ``user_id``."""
    return histories.select(c.USER_IDX, c.USER_ID, F.col(c.NUM_TRAIN).cast("long").alias(c.NUM_EVENTS))


def name_sessions(sessions: DataFrame) -> DataFrame:
    """The table `sessions`, with ids that do not hang on other users or on a user's other sessions."""
    parts = F.concat_ws("\x1f", c.USER_ID, c.SPLIT, START_US, ORDINAL)
    start_ts = F.timestamp_micros(START_US)
    return sessions.select(
        F.substring(F.md5(parts), 1, _SESSION_ID_DIGITS).alias(c.SESSION_ID),
        c.USER_IDX,
        start_ts.alias(c.START_TS),
        F.timestamp_micros(END_US).alias(c.END_TS),
        c.ITEM_IDX,
        c.OFFSET_SECONDS,
        c.WEIGHT,
        c.EVENT_TYPE,
        c.SPLIT,
        F.to_date(start_ts).alias(c.DAY),
    )
