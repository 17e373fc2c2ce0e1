"""events at one version -> quarantine, items, users, user_histories, and sessions, whose commit means done.

Everything is computed and checked before the first commit. Where an earlier version was made of events that have only
grown or changed a little since, the stage goes on from it (`increment`); else it builds all anew.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEMS, QUARANTINE, SESSIONS, USER_HISTORIES, USERS
from recspark.faults import fault_point
from recspark.lake.arrow import TableAt, find_table
from recspark.lake.lineage import find_sessions_ancestor
from recspark.lake.spark import read_table, write_table
from recspark.logs import log
from recspark.sessions.clean import RAW_EVENT, REASON
from recspark.sessions.increment import build_increment
from recspark.sessions.increment_commit import commit_increment
from recspark.sessions.tables import STAGE, SessionTables, build_tables, holding

Features = tuple[DataFrame | None, DataFrame | None]
"""Of items and of users, None where there are none."""


def build_sessions(spark: SparkSession, run: Run) -> None:
    """Runs the stage for the events of this run's key.

    Raises: DataError when the split leaves a part empty, nothing is left after cleaning, or too much would be
        quarantined; SourceError for features that cannot be read. Nothing is committed then.
    """
    with _naming_features(run):
        _build(spark, run, find_table(run.lake, run.producer("events"), "events"))


def _build(spark: SparkSession, run: Run, events_at: TableAt) -> None:
    ancestor = find_sessions_ancestor(run, events_at)
    if ancestor.is_telling:
        log(STAGE, ancestor.describe())
    features = _read_features(spark, run)
    at = ancestor.at
    counts = _go_on(spark, run, at, events_at, features) if at else _build_all(spark, run, events_at, features)
    shown = ("events_in", "kept", "collapsed", "num_sessions", "num_users", "num_items", "num_active_items")
    log(STAGE, f"done at version {counts['version']}", **{name: counts[name] for name in shown})


def _build_all(spark: SparkSession, run: Run, events_at: TableAt, features: Features) -> dict[str, Any]:
    """Commits tables of all events; the counts and the marker's ``version``."""
    with holding() as hold:
        tables = build_tables(read_table(spark, events_at), _known_ids(features), run.config, hold)
        return tables.counts | {"version": _commit(run, _add_features(tables, features, run), events_at)}


def _go_on(spark: SparkSession, run: Run, base: TableAt, events_at: TableAt, features: Features) -> dict[str, Any]:
    """Commits an earlier version with what has changed since, as `_build_all`."""
    increment = build_increment(spark, run, base, events_at, _known_ids(features))
    tables = _add_features(increment.tables, features, run)
    quarantine = build_quarantine(tables.refused, run, events_at)
    version = commit_increment(run, replace(increment, tables=tables), quarantine, events_at)
    return tables.counts | {"version": version}


def _known_ids(features: Features) -> DataFrame | None:
    return None if features[0] is None else features[0].select(c.ITEM_ID)


def _naming_features(run: Run) -> AbstractContextManager[None]:
    """Blames the features for files that cannot be read, our own aside: they are read when rows are asked for."""
    if not run.config.features:
        return nullcontext()
    from recspark.sources.rows import reading

    where = f"features ({', '.join(f.name for f in run.config.features)})"
    return reading(where, run.lake, may_quote=run.config.source.privacy is None)


def _read_features(spark: SparkSession, run: Run) -> Features:
    if not run.config.features:
        return None, None
    from recspark.sources.features import read_item_features, read_user_features

    return read_item_features(spark, run), read_user_features(spark, run)


def _add_features(tables: SessionTables, features: Features, run: Run) -> SessionTables:
    item_features, user_features = features
    if item_features is None and user_features is None:
        return tables
    from recspark.sources.features import add_item_features, add_user_features

    items = add_item_features(tables.items, item_features, run).orderBy(c.ITEM_IDX)
    users = add_user_features(tables.users, user_features, run).orderBy(c.USER_IDX)
    return replace(tables, items=items, users=users)


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
