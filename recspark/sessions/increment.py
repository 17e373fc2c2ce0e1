"""An earlier version of the stage's tables and what has changed in `events` since -> the rows of the users it touches.

sessions 3 of events 3; events 4 has two more of ann   ->   all of ann's rows now, and those she had; the rest stays

The result is that of a full build of the events of now, but for ids: those once given stay, new ones follow.
"""

from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.counts import add_counts, subtract_counts
from recspark.lake.arrow import TableAt, count_rows
from recspark.lake.spark import read_table
from recspark.sessions.clean import QUARANTINE_REASONS, REASON
from recspark.sessions.continued_ids import IS_RARE, WAS_RARE, extend_items, extend_users, renumber_users
from recspark.sessions.counts import (
    NO_VOCABULARY,
    EventCounts,
    build_counts,
    check_events,
    check_vocabulary,
    count_events,
    count_rare_events,
    count_sessions,
    count_users,
    find_event_types,
)
from recspark.sessions.earlier_counts import count_stored_sessions, events_of_record, shift_time_range
from recspark.sessions.tables import (
    SessionTables,
    build_facts,
    build_user_rows,
    name_sessions,
    prepare_events,
    settle,
)
from recspark.sessions.touched import (
    UNSETTLED,
    Users,
    compare_items,
    find_changed_users,
    find_sharers,
    find_unsettled_items,
)


@dataclass(frozen=True)
class SessionIncrement:
    """What is to be committed on an earlier version: ``tables`` hold the touched ``users``' rows, but all of `items`,
    and all of `users` where it has features.

    ``stored`` are those users' rows of the earlier version, by table.
    """

    base: TableAt
    users: Users
    tables: SessionTables
    stored: dict[str, DataFrame]


@dataclass(frozen=True)
class _Part:
    """The prepared events of some users, of the earlier version and of now."""

    users: Users
    before: DataFrame
    now: DataFrame


def build_increment(
    spark: SparkSession, run: Run, base: TableAt, events_at: TableAt, feature_items: DataFrame | None
) -> SessionIncrement:
    """What has to be committed on ``base``, however many users it touches: a full build would give other ids.

    Raises: DataError as a full build.
    """
    before_at = TableAt(run.lake, "events", base.record.inputs["events"], base.record)
    before, now = read_table(spark, before_at), read_table(spark, events_at)
    part = _prepare(find_changed_users(spark, before_at, events_at), before, now, run)
    items = _add_known(_stored(spark, base, "items"), feature_items)
    min_item_events = run.config.vocabulary.min_item_events
    compared = settle(compare_items(items, part.before, part.now))
    unsettled = settle(find_unsettled_items(compared, min_item_events))
    if not unsettled.isEmpty():
        wider = part.users.ids.union(find_sharers(now, unsettled)).distinct()
        part = _prepare(wider, before, now, run)
        compared = settle(compare_items(items, part.before, part.now))
    is_unsettled = unsettled.select(c.ITEM_ID, F.lit(True).alias(UNSETTLED))
    compared = compared.join(is_unsettled, c.ITEM_ID, "left").fillna({UNSETTLED: False})
    first_free = count_rows(stored_at(base, "items"))
    extended = settle(extend_items(compared, min_item_events, first_free))
    return _finish(spark, run, base, part, extended, now)


def _prepare(ids: DataFrame, before: DataFrame, now: DataFrame, run: Run) -> _Part:
    """The part of these users."""
    ids = settle(ids)
    users = Users(ids, ids.count())
    prepared = [settle(prepare_events(users.rows_of(events), run.config)) for events in (before, now)]
    return _Part(users, *prepared)


def _add_known(items: DataFrame, feature_items: DataFrame | None) -> DataFrame:
    """Items with those that features alone know."""
    items = items.select(c.ITEM_IDX, c.ITEM_ID, c.NUM_EVENTS, c.FIRST_SEEN, c.ACTIVE)
    return items if feature_items is None else items.join(feature_items, c.ITEM_ID, "full_outer")


def _stored(spark: SparkSession, base: TableAt, name: str) -> DataFrame:
    return read_table(spark, stored_at(base, name))


def stored_at(base: TableAt, name: str) -> TableAt:
    """A table of the stage at the version that belongs to a version of `sessions`."""
    return base if name == base.name else TableAt(base.lake, name, base.record.tables[name], base.record)


def _finish(
    spark: SparkSession, run: Run, base: TableAt, part: _Part, extended: DataFrame, all_events: DataFrame
) -> SessionIncrement:
    """Rows, counts and facts, checked; ``all_events`` are looked at where the earliest or latest event has gone."""
    events = count_events(part.before), count_events(part.now)
    time_range = shift_time_range(base.record.facts["time_range"], *(e.time_range_us for e in events))
    if time_range is None:
        everything = count_events(prepare_events(all_events, run.config))
        check_events(everything, run.config)
        time_range = everything.time_range_us
        assert time_range, "something is left"
    event_types = find_event_types(part.now, base.record.facts["event_types"])
    items = extended.drop(WAS_RARE, IS_RARE)
    histories, sessions = build_user_rows(part.now, items, event_types, run.config, settle)
    first_free = count_rows(stored_at(base, "users"))
    users = settle(extend_users(part.users.rows_of(_stored(spark, base, "users")), histories, first_free))
    stored = _stored_rows(spark, base, users)
    tables = SessionTables(
        refused=part.now.where(F.col(REASON).isin(*QUARANTINE_REASONS)),
        items=items,
        users=_add_others(spark, base, users) if any(f.of == "user" for f in run.config.features) else users,
        histories=renumber_users(histories, users),
        sessions=name_sessions(renumber_users(sessions, users)),
        counts={},
        facts=build_facts(run.config, event_types, time_range),
    )
    min_item_events = run.config.vocabulary.min_item_events
    before = _count_before(events[0], part, stored, _stored(spark, base, "items"), min_item_events)
    rare = NO_VOCABULARY | {"rare_events": count_rare_events(part.now, items, min_item_events)}
    now = build_counts(events[1], rare, count_sessions(sessions), count_users(histories))
    counts = add_counts(subtract_counts(base.record.counts, before), now) | _count_items(extended, base, run)
    check_events(events_of_record(counts, time_range), run.config)
    return SessionIncrement(base, part.users, replace(tables, counts=counts), stored)


def _add_others(spark: SparkSession, base: TableAt, users: DataFrame) -> DataFrame:
    """All of `users`: where it has features, those of any user may have changed."""
    stored = _stored(spark, base, "users").select(*users.columns)
    return stored.join(users.select(c.USER_IDX), c.USER_IDX, "left_anti").unionByName(users)


def _stored_rows(spark: SparkSession, base: TableAt, users: DataFrame) -> dict[str, DataFrame]:
    """The rows of the earlier version of these users."""
    ids = users.select(c.USER_IDX)
    names = ("users", "user_histories", "sessions")
    return {name: settle(_stored(spark, base, name).join(ids, c.USER_IDX, "left_semi")) for name in names}


def _count_before(
    events: EventCounts, part: _Part, stored: dict[str, DataFrame], items: DataFrame, min_item_events: int
) -> dict[str, Any]:
    """What the earlier version's counts owe to these users."""
    rare = NO_VOCABULARY | {"rare_events": count_rare_events(part.before, items, min_item_events)}
    sessions = count_stored_sessions(stored["sessions"], stored["user_histories"])
    return build_counts(events, rare, sessions, count_users(stored["user_histories"]))


def _count_items(extended: DataFrame, base: TableAt, run: Run) -> dict[str, int]:
    """Numbers of items; of the rare ones by what has become rare or is no longer.

    Raises: DataError when fewer than two are active.
    """
    row = extended.agg(
        F.count("*").alias("num_items"),
        F.count(F.when(F.col(c.ACTIVE), 1)).alias("num_active_items"),
        F.count(F.when(F.col(IS_RARE), 1)).alias("now"),
        F.count(F.when(F.col(WAS_RARE), 1)).alias("before"),
        F.max(c.NUM_EVENTS).alias("most"),
    ).collect()[0]
    check_vocabulary(row["num_active_items"], row["most"], run.config.vocabulary.min_item_events)
    num_rare = base.record.counts["num_rare_items"] + row["now"] - row["before"]
    return {
        "num_items": row["num_items"],
        "num_active_items": row["num_active_items"],
        "num_rare_items": num_rare,
    }
