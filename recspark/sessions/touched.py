"""Which users an increment has to build anew: who has a changed event, and who an item whose state hangs on it.

events 3 to 4: two more events of ann     ->  ann
ann's new event makes item i7 no longer rare (`vocabulary.min_item_events`)  ->  everyone who has i7

All of a touched user is built anew, from all of his events: filters, splits and the total order look at a whole user,
and sessions are cut in one pass over him. It is sound for every rule, and costs as much as the user has events.
"""

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.contracts import columns as c
from recspark.contracts.tables import EVENTS
from recspark.lake.arrow import TableAt
from recspark.lake.increment import read_new_rows
from recspark.lake.spark import read_table
from recspark.sessions.vocabulary import TRAIN_EVENTS, count_items

OLD_TRAIN, OLD_FIRST, NEW_TRAIN, NEW_FIRST = "_old_train", "_old_first", "_new_train", "_new_first"
UNSETTLED = "_unsettled"

_NO_CONTENT = {c.ROW_HASH, c.DAY}
_CHANGE = "_change"
_MAX_BROADCAST = 1_000_000


@dataclass(frozen=True)
class Users:
    """Some users: ``ids`` has one column, ``user_id``."""

    ids: DataFrame
    number: int

    def rows_of(self, frame: DataFrame, id_column: str = c.USER_ID) -> DataFrame:
        """The rows of these users."""
        return self._join(frame, id_column, "left_semi")

    def rows_of_others(self, frame: DataFrame, id_column: str = c.USER_ID) -> DataFrame:
        """The rows of all but these users."""
        return self._join(frame, id_column, "left_anti")

    def _join(self, frame: DataFrame, id_column: str, how: str) -> DataFrame:
        ids = self.ids.withColumnRenamed(c.USER_ID, id_column)
        return frame.join(F.broadcast(ids) if self.number < _MAX_BROADCAST else ids, id_column, how)


def find_changed_users(spark: SparkSession, before: TableAt, now: TableAt) -> DataFrame:
    """``user_id`` of everyone with an event that only one of two versions of `events` has."""
    added = read_new_rows(spark, now, before)
    if added is not None:
        return added.select(c.USER_ID).distinct()
    names = [name for name in EVENTS.schema.names if name not in _NO_CONTENT]
    old = read_table(spark, before).select(*names, F.lit(-1).alias(_CHANGE))
    new = read_table(spark, now).select(*names, F.lit(1).alias(_CHANGE))
    changes = old.unionByName(new).groupBy(*names).agg(F.sum(_CHANGE).alias(_CHANGE))
    return changes.where(F.col(_CHANGE) != 0).select(c.USER_ID).distinct()


def compare_items(items: DataFrame, before: DataFrame, now: DataFrame) -> DataFrame:
    """`items` of the earlier version and new ones, with counts and first times in some users' events then and now.

    ``before`` and ``now`` are these users' prepared events.
    """
    old = count_items(before).withColumnsRenamed({TRAIN_EVENTS: OLD_TRAIN, c.FIRST_SEEN: OLD_FIRST})
    new = count_items(now).withColumnsRenamed({TRAIN_EVENTS: NEW_TRAIN, c.FIRST_SEEN: NEW_FIRST})
    return items.join(old.join(new, c.ITEM_ID, "full_outer"), c.ITEM_ID, "full_outer")


def find_unsettled_items(compared: DataFrame, min_item_events: int) -> DataFrame:
    """``item_id`` of those whose state the users compared do not decide alone.

    That is: an item that is or becomes rare (others' train events of it are dropped, and counted nowhere), and one
    whose first event of all has gone.
    """
    old, new = F.coalesce(OLD_TRAIN, F.lit(0)), F.coalesce(NEW_TRAIN, F.lit(0))
    is_rare = ~F.coalesce(c.ACTIVE, F.lit(False)) | (F.col(c.NUM_EVENTS) - old + new < min_item_events)
    is_unsettled = (F.col(OLD_FIRST) == F.col(c.FIRST_SEEN)) & (
        F.col(NEW_FIRST).isNull() | (F.col(NEW_FIRST) > F.col(OLD_FIRST))
    )
    if min_item_events > 1:
        is_unsettled = F.coalesce(is_unsettled, F.lit(False)) | ((old != new) & is_rare)
    return compared.where(is_unsettled).select(c.ITEM_ID)


def find_sharers(events: DataFrame, items: DataFrame) -> DataFrame:
    """``user_id`` of everyone with an event of some items."""
    return events.join(F.broadcast(items), c.ITEM_ID, "left_semi").select(c.USER_ID).distinct()
