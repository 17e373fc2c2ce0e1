"""The commits of an increment: tables at an earlier version, with the touched users' rows in place of theirs.

Data files without a changed row are carried over (`lake.increment`). `items` is written whole: each day's events change
the counts of the popular ones in all of its files; so is `users` where it holds features, which may all have changed.
"""

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEMS, QUARANTINE, SESSIONS, USER_HISTORIES, USERS, TableSpec
from recspark.faults import fault_point
from recspark.lake.arrow import TableAt
from recspark.lake.increment import GONE, commit_marker, find_changes, merge_rows
from recspark.lake.spark import read_table, write_table
from recspark.logs import log
from recspark.sessions.increment import SessionIncrement, stored_at
from recspark.sessions.tables import STAGE, settle


def commit_increment(run: Run, increment: SessionIncrement, refused: DataFrame, events_at: TableAt) -> int:
    """Commits the side tables, then `sessions` and its marker; the marker's version.

    ``refused`` are the touched users' rows of `quarantine`.
    """
    base, tables = increment.base, increment.tables
    inputs = {"events": events_at.version}
    built_from = {
        "version": base.version,
        "key": base.record.key[:12],
        "events": [base.record.inputs["events"], events_at.version],
        "users_touched": increment.users.number,
    }
    side = run.record(STAGE, is_marker=False, inputs=inputs, facts={"built_from": built_from})
    changes = settle(find_changes(increment.stored["sessions"], tables.sessions, SESSIONS))
    built_from |= _count_changes(changes)
    versions = {QUARANTINE.name: _write_quarantine(run, increment, refused, side)}
    versions[ITEMS.name] = write_table(tables.items.orderBy(c.ITEM_IDX), run.lake, ITEMS, side)
    fault_point("sessions.between_tables")
    versions[USERS.name] = _write_users(run, increment, side)
    histories = settle(find_changes(increment.stored["user_histories"], tables.histories, USER_HISTORIES))
    versions[USER_HISTORIES.name] = _merge(histories, base, USER_HISTORIES, side)
    sessions = _merge(changes, base, SESSIONS, side)
    fault_point("sessions.before_marker")
    facts = tables.facts | {"built_from": built_from}
    marker = run.record(STAGE, is_marker=True, tables=versions, inputs=inputs, counts=tables.counts, facts=facts)
    version = commit_marker(TableAt(run.lake, SESSIONS.name, sessions, marker), marker)
    log(
        STAGE,
        f"went on from version {base.version}",
        **{k: v for k, v in built_from.items() if k not in ("version", "key")},
    )
    return version


def _merge(changes: DataFrame, base: TableAt, spec: TableSpec, record: Any) -> int:
    """The version with the changes; that of the earlier one where there are none."""
    at = stored_at(base, spec.name)
    return at.version if changes.isEmpty() else merge_rows(changes, at, spec, record)


def _count_changes(changes: DataFrame) -> dict[str, int]:
    row = changes.agg(
        F.count(F.when(~F.col(GONE), 1)).alias("sessions_written"),
        F.count(F.when(F.col(GONE), 1)).alias("sessions_gone"),
    ).collect()[0]
    found: dict[str, int] = row.asDict()
    return found


def _write_users(run: Run, increment: SessionIncrement, record: Any) -> int:
    users = increment.tables.users
    if not any(name.startswith(c.FEATURE_PREFIX) for name in users.columns):
        changes = settle(find_changes(increment.stored["users"], users, USERS))
        return _merge(changes, increment.base, USERS, record)
    return write_table(users.orderBy(c.USER_IDX), run.lake, USERS, record)


def _write_quarantine(run: Run, increment: SessionIncrement, refused: DataFrame, record: Any) -> int:
    """This key's slice: the touched users' refused rows of now, the others' of before."""
    before = read_table(refused.sparkSession, stored_at(increment.base, QUARANTINE.name)).where(
        (F.col(c.STAGE) == STAGE) & (F.col(c.STAGE_KEY) == increment.base.record.key)
    )
    user = "_user"
    others = increment.users.rows_of_others(before.withColumn(user, F.get_json_object(c.RAW, f"$.{c.USER_ID}")), user)
    key = run.stages[STAGE].key
    slice_ = others.drop(user).withColumn(c.STAGE_KEY, F.lit(key)).unionByName(refused)
    own_slice = f"{c.STAGE} = '{STAGE}' AND {c.STAGE_KEY} = '{key}'"
    return write_table(slice_, run.lake, QUARANTINE, record, replace=own_slice)
