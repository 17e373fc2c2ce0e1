"""events at one version -> quarantine, items, users, user_histories, and sessions, whose commit means done.

Everything is computed and checked before the first commit. Three frames are held: the prepared events (read for
counts, vocabulary and grouping), the events grouped by user, and what the kernels make of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run, RunConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEMS, QUARANTINE, SESSIONS, USER_HISTORIES, USERS
from recspark.faults import fault_point
from recspark.lake.arrow import TableAt, find_table
from recspark.lake.spark import read_table, write_table
from recspark.logs import log
from recspark.sessions.by_user import find_first_users, map_users, sort_by_user
from recspark.sessions.clean import QUARANTINE_REASONS, RAW_EVENT, REASON, drop_users, mark_refused_events
from recspark.sessions.counts import (
    EventCounts,
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


def build_sessions(spark: SparkSession, run: Run) -> None:
    """Runs the stage for the events of this run's key.

    Raises: DataError when the split leaves a part empty,
    nothing is left after cleaning, or too much would be quarantined. Nothing is committed then.
    """
    events_at = find_table(run.lake, run.producer("events"), "events")
    item_features, user_features = _read_features(spark, run)
    item_ids = None if item_features is None else item_features.select(c.ITEM_ID)
    with _holding() as hold:
        tables = build_tables(read_table(spark, events_at), item_ids, run.config, hold)
        tables = _add_features(tables, item_features, user_features, run)
        version = _commit(run, tables, events_at)
    shown = ("events_in", "kept", "collapsed", "num_sessions", "num_users", "num_items", "num_active_items")
    log(STAGE, f"done at version {version}", **{name: tables.counts[name] for name in shown})


def prepare_events(events: DataFrame, config: RunConfig) -> DataFrame:
    """Events with split and reason: what is refused by itself, the split, then whole users."""
    marked = add_split(mark_refused_events(events, config), config.split, config.source.order)
    return drop_users(marked, config.clean, has_time_cut=config.split.kind == "time")


@contextmanager
def _holding() -> Iterator[Hold]:
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

    min_item_events, order = config.vocabulary.min_item_events, config.source.order
    items = hold(build_items(count_items(prepared), feature_items, min_item_events))
    vocabulary = count_vocabulary(items, min_item_events)

    by_basket = config.sessions.group_by == "basket"
    known = hold(sort_by_user(prepared, items, event_types, event_order(order), by_basket))
    first_users = find_first_users(known)
    histories = hold(map_users(known, first_users, build_histories, HISTORY_SCHEMA))
    cut = partial(build_sessions_of, rules=plan_rules(config.sessions, order))
    sessions = hold(map_users(known, first_users, cut, SESSION_SCHEMA))
    counts = build_counts(event_counts, vocabulary, count_sessions(sessions), count_users(histories))
    return SessionTables(
        refused=prepared.where(F.col(REASON).isin(*QUARANTINE_REASONS)),
        items=items,
        users=build_users(histories),
        histories=histories,
        sessions=name_sessions(sessions),
        counts=counts,
        facts=_build_facts(config, event_types, event_counts),
    )


def _build_facts(config: RunConfig, event_types: list[str], counts: EventCounts) -> dict[str, Any]:
    assert counts.time_range_us
    return {
        "event_types": event_types,
        "cut": config.split.cut,
        "order": config.source.order,
        "time_range": [iso_time(t) for t in counts.time_range_us],
    }


def _log_absent_types(config: RunConfig, event_types: list[str]) -> None:
    named = {*(config.clean.event_types or ()), *(t for t, w in config.clean.event_weights.items() if w > 0)}
    if absent := sorted(named - set(event_types)):
        log(STAGE, "clean names event types of which no event is kept", types=", ".join(absent))


def _read_features(spark: SparkSession, run: Run) -> tuple[DataFrame | None, DataFrame | None]:
    if not run.config.features:
        return None, None
    from recspark.sources.features import read_item_features, read_user_features

    return read_item_features(spark, run), read_user_features(spark, run)


def _add_features(
    tables: SessionTables, item_features: DataFrame | None, user_features: DataFrame | None, run: Run
) -> SessionTables:
    if item_features is None and user_features is None:
        return tables
    from recspark.sources.features import add_item_features, add_user_features

    items = add_item_features(tables.items, item_features, run).orderBy(c.ITEM_IDX)
    users = add_user_features(tables.users, user_features, run).orderBy(c.USER_IDX)
    return replace(tables, items=items, users=users)


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


def build_quarantine(refused: DataFrame, run: Run, events_at: TableAt) -> DataFrame:
    """The stage's slice of `quarantine`; ``source_file`` is the events table and its version."""
    return refused.select(
        F.lit(STAGE).alias(c.STAGE),
        F.lit(run.stages[STAGE].key).alias(c.STAGE_KEY),
        F.col(REASON).alias(c.REASON),
        F.col(RAW_EVENT).alias(c.RAW),
        F.lit(f"{events_at.uri}@{events_at.version}").alias(c.SOURCE_FILE),
        F.lit(run.run_id).alias(c.RUN_ID),
    )


def _commit(run: Run, tables: SessionTables, events_at: TableAt) -> int:
    """Commits the side tables, then the marker; the marker's version."""
    inputs = {"events": events_at.version}
    side = run.record(STAGE, is_marker=False, inputs=inputs)
    own_slice = f"{c.STAGE} = '{STAGE}' AND {c.STAGE_KEY} = '{run.stages[STAGE].key}'"
    quarantine = build_quarantine(tables.refused, run, events_at)
    versions = {"quarantine": write_table(quarantine, run.lake, QUARANTINE, side, replace=own_slice)}
    versions["items"] = write_table(tables.items, run.lake, ITEMS, side)
    fault_point("sessions.between_tables")
    versions["users"] = write_table(tables.users, run.lake, USERS, side)
    versions["user_histories"] = write_table(tables.histories, run.lake, USER_HISTORIES, side)
    marker = run.record(STAGE, is_marker=True, tables=versions, inputs=inputs, counts=tables.counts, facts=tables.facts)
    return write_table(tables.sessions, run.lake, SESSIONS, marker)
