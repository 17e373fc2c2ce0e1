"""events of chosen types, which no history holds -> `user_negatives`: what users were shown and passed over.

in   ann was shown i3 at 9:00 and i5 at 9:10 (impression), skipped i9 at 11:00, which the split holds out
out  user_idx 7, item_idx [3, 5], ts and event_type as long

An event is kept where it lies in the train part by the split's own rules:
- `split.cut`, `split.valid.cut`: before them. `given`: its own `split` says train.
- `leave_last_out`, `valid.last_k`: before the first event that the rule holds out of the user's history.
- `valid.user_share`: on an item that is none of the user's validation items.
Users need a train event, items too: what was only ever shown is learned from by nobody.
"""

from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recspark.config import Run, RunConfig
from recspark.config.schema import SplitConfig
from recspark.config.towers import ExplicitConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import USER_NEGATIVES
from recspark.errors import DataError
from recspark.faults import fault_point
from recspark.lake.arrow import find_table
from recspark.lake.spark import read_table, write_table
from recspark.logs import log
from recspark.sessions.split import is_from
from recspark.sessions.tables import holding

STAGE = "negatives"
FATE = "_fate"
KEPT, UNKNOWN_USERS, UNKNOWN_ITEMS, HELD_OUT, OLDER = "kept", "unknown_users", "unknown_items", "held_out", "older"
"""What becomes of an event: `OLDER` is one beyond a user's newest `max_events`."""
_HELD_FROM, _HELD_ITEMS = "_held_from", "_held_items"
_SHOWN = 8


def build_negatives(spark: SparkSession, run: Run) -> None:
    """Commits the negatives of all users.

    Raises: DataError when the source has no event of a type that is named, or none is left to learn from.
    """
    explicit = run.config.model.explicit_negatives
    assert explicit, "a run has this stage only with the section"
    events_at = find_table(run.lake, run.producer("events"), "events")
    tables = [find_table(run.lake, run.stages["sessions"], name) for name in ("users", "items", "user_histories")]
    events, users, items, histories = (read_table(spark, table) for table in (events_at, *tables))
    check_types(events, explicit)
    with holding() as hold:
        marked = hold(mark_negatives(events, users, items, histories, run.config))
        negatives = hold(build_rows(marked, explicit.max_events))
        counts = count_negatives(marked, negatives)
        check_left(counts)
        record = run.record(
            STAGE,
            is_marker=True,
            inputs={table.name: table.version for table in (events_at, *tables)},
            counts=counts,
            facts={"event_types": list(explicit.event_types)},
        )
        version = write_table(negatives, run.lake, USER_NEGATIVES, record)
    fault_point(f"{STAGE}.after_commit")
    log(STAGE, f"done at version {version}", **counts)


def check_types(events: DataFrame, explicit: ExplicitConfig) -> None:
    """Checks that the events hold every type that is to be a negative.

    Raises: DataError with the types there are.
    """
    found = {row[0] for row in events.select(c.EVENT_TYPE).distinct().limit(10_000).collect()}
    if absent := [name for name in explicit.event_types if name not in found]:
        known = sorted(map(str, found))
        shown = ", ".join(map(repr, known[:_SHOWN])) + (", ..." if len(known) > _SHOWN else "")
        raise DataError(
            f"model.towers.negatives.explicit.event_types: no event is of type {', '.join(map(repr, absent))}; events "
            f"hold {shown or 'no types'}. Name some of them, or check source.columns.event_type"
        )


def mark_negatives(
    events: DataFrame, users: DataFrame, items: DataFrame, histories: DataFrame, config: RunConfig
) -> DataFrame:
    """The events of the types: user_idx, item_idx, ts (microseconds), event_type (code) and `_fate`."""
    explicit = config.model.explicit_negatives
    assert explicit
    learners = find_learners(users, histories, config.split)
    learned = items.where(F.col(c.ACTIVE)).select(c.ITEM_ID, c.ITEM_IDX)
    fate = F.coalesce(
        F.when(F.col(c.USER_IDX).isNull(), UNKNOWN_USERS),
        F.when(F.col(c.ITEM_IDX).isNull(), UNKNOWN_ITEMS),
        F.when(~_is_train(config.split), HELD_OUT),
        F.lit(KEPT),
    )
    types = list(explicit.event_types)
    code = F.array_position(F.array(*map(F.lit, types)), F.col(c.EVENT_TYPE)) - 1
    return (
        events.where(F.col(c.EVENT_TYPE).isin(*types))
        .join(learners, c.USER_ID, "left")
        .join(learned, c.ITEM_ID, "left")
        .select(
            c.USER_IDX,
            c.ITEM_IDX,
            F.unix_micros(c.TS).alias(c.TS),
            code.cast("tinyint").alias(c.EVENT_TYPE),
            fate.alias(FATE),
        )
    )


def find_learners(users: DataFrame, histories: DataFrame, split: SplitConfig) -> DataFrame:
    """Users with train events: user_id, user_idx, when what is held out of their own order begins, held out items."""
    before, num_valid = F.col(c.NUM_TRAIN), F.col(c.NUM_VALID)
    valid = (before + 1, num_valid)
    test = (before + num_valid + F.col(c.NUM_CONTEXT) + 1, F.size(c.ITEM_IDX))
    by_order = [test] if split.kind == "leave_last_out" else []
    by_order += [valid] if split.valid and split.valid.kind == "last_k" else []
    by_item = [valid] if split.valid and split.valid.kind == "user_share" else []
    held_from = F.array_min(_join(c.TS, by_order, "bigint"))
    held_items = _join(c.ITEM_IDX, by_item, "int")
    return (
        histories.where(before > 0)
        .select(c.USER_IDX, held_from.alias(_HELD_FROM), held_items.alias(_HELD_ITEMS))
        .join(users.select(c.USER_IDX, c.USER_ID), c.USER_IDX)
    )


def _join(column: str, slices: list[tuple[Column, Column]], element: str) -> Column:
    """Parts of a list, each from a place (counted from 1) on and so many values long."""
    none = F.array().cast(f"array<{element}>")
    return F.concat(none, *(F.slice(column, start, length) for start, length in slices))


def _is_train(split: SplitConfig) -> Column:
    """Whether an event, with what is held out of its user, lies in the train part."""
    is_train = F.coalesce(F.unix_micros(c.TS) < F.col(_HELD_FROM), F.lit(True))
    is_train &= ~F.coalesce(F.array_contains(_HELD_ITEMS, F.col(c.ITEM_IDX)), F.lit(False))
    if split.kind == "time":
        assert split.cut
        is_train &= ~is_from(split.cut, "split.cut")
    elif split.kind == "given":
        is_train &= F.coalesce(F.col(c.SPLIT) == c.TRAIN, F.lit(False))
    if split.valid and split.valid.kind == "time":
        assert split.valid.cut
        is_train &= ~is_from(split.valid.cut, "split.valid.cut")
    elif split.valid and split.valid.kind == "given":
        is_train &= F.coalesce(F.col(c.SPLIT) != c.VALID, F.lit(True))
    return is_train


def build_rows(marked: DataFrame, max_events: int) -> DataFrame:
    """Rows of `user_negatives`: each user's newest kept events, the newest last."""
    order = (c.TS, c.ITEM_IDX, c.EVENT_TYPE)
    newest = Window.partitionBy(c.USER_IDX).orderBy(*map(F.desc, order))
    ranked = marked.where(F.col(FATE) == KEPT).withColumn("_rank", F.row_number().over(newest))
    listed = F.sort_array(F.collect_list(F.struct(*order)))
    rows = ranked.where(F.col("_rank") <= max_events).groupBy(c.USER_IDX).agg(listed.alias("_events"))
    return rows.select(c.USER_IDX, *(F.col(f"_events.{name}").alias(name) for name in order))


def count_negatives(marked: DataFrame, negatives: DataFrame) -> dict[str, Any]:
    """``events_in`` by fate, which add up, and users with negatives."""
    fates = {row[FATE]: row["count"] for row in marked.groupBy(FATE).count().collect()}
    length = F.coalesce(F.sum(F.size(c.ITEM_IDX)), F.lit(0))
    row = negatives.agg(F.count("*").alias("num_users"), length.alias("events")).collect()[0]
    dropped = {name: fates[name] for name in (UNKNOWN_USERS, UNKNOWN_ITEMS, HELD_OUT) if name in fates}
    older = fates.get(KEPT, 0) - row["events"]
    dropped |= {OLDER: older} if older else {}
    return {
        "events_in": sum(fates.values()),
        "kept": row["events"],
        "dropped": dropped,
        "num_users": row["num_users"],
    }


def check_left(counts: dict[str, Any]) -> None:
    """Checks that there is a negative to learn from.

    Raises: DataError with what became of the events.
    """
    if not counts["kept"]:
        dropped = ", ".join(f"{name} {number:,}" for name, number in counts["dropped"].items())
        raise DataError(
            f"model.towers.negatives.explicit: none of {counts['events_in']:,} events is left ({dropped}): they are "
            f"of users or on items without train events, or in what the split holds out; name other event types, or "
            f"leave the section out"
        )
