"""Ids that go on: an item or user keeps what it was once given, new ones follow densely.

items at version 3   i4 -> 0, i1 -> 1        now   i4 -> 0, i1 -> 1 (inactive: no train event is left), i9 -> 2
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recspark.contracts import columns as c
from recspark.lake.spark import number_rows
from recspark.sessions.touched import NEW_FIRST, NEW_TRAIN, OLD_TRAIN, UNSETTLED

WAS_RARE, IS_RARE = "_was_rare", "_is_rare"


def extend_items(compared: DataFrame, min_item_events: int, first_free: int) -> DataFrame:
    """The table `items` without features, with ``WAS_RARE`` and ``IS_RARE`` where a count of train events is known.

    ``compared`` as by `compare_items`, with ``UNSETTLED``: all users with such an item were compared.
    """
    old, new = F.coalesce(OLD_TRAIN, F.lit(0)), F.coalesce(NEW_TRAIN, F.lit(0))
    is_known = F.col(UNSETTLED) | F.col(c.FIRST_SEEN).isNull()  # else others have it too
    train = F.when(is_known, new).otherwise(F.col(c.NUM_EVENTS) - old + new)
    first = F.when(is_known, F.col(NEW_FIRST)).otherwise(F.least(c.FIRST_SEEN, NEW_FIRST))
    counted = compared.select(
        c.ITEM_IDX,
        c.ITEM_ID,
        F.when(train >= min_item_events, train).otherwise(0).cast("long").alias(c.NUM_EVENTS),
        first.alias(c.FIRST_SEEN),
        (train >= min_item_events).alias(c.ACTIVE),
        (is_known & old.between(1, min_item_events - 1)).alias(WAS_RARE),
        (is_known & new.between(1, min_item_events - 1)).alias(IS_RARE),
    )
    return _number_new(counted, c.ITEM_IDX, first_free, F.desc(c.NUM_EVENTS), F.asc(c.ITEM_ID))


def extend_users(known: DataFrame, histories: DataFrame, first_free: int) -> DataFrame:
    """Rows of `users` for some users: ``known`` are theirs of the earlier version, ``histories`` those of now."""
    now = histories.select(c.USER_ID, F.col(c.NUM_TRAIN).cast("long").alias(c.NUM_EVENTS))
    joined = known.select(c.USER_IDX, c.USER_ID).join(now, c.USER_ID, "full_outer")
    counted = joined.withColumn(c.NUM_EVENTS, F.coalesce(c.NUM_EVENTS, F.lit(0).cast("long")))
    return _number_new(counted, c.USER_IDX, first_free, F.asc(c.USER_ID))


def _number_new(rows: DataFrame, idx: str, first_free: int, *order: Column) -> DataFrame:
    """Rows without an idx get the free ones, in a total order."""
    new = number_rows(rows.where(F.col(idx).isNull()).drop(idx).orderBy(*order), idx)
    numbered = new.withColumn(idx, (F.col(idx) + first_free).cast("int"))
    return rows.where(F.col(idx).isNotNull()).unionByName(numbered)


def renumber_users(rows: DataFrame, users: DataFrame) -> DataFrame:
    """Rows with ``user_id`` under the idx that `users` give."""
    return rows.drop(c.USER_IDX).join(users.select(c.USER_ID, c.USER_IDX), c.USER_ID)
