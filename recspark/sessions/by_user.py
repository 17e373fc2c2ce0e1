"""Kept events -> Spark partitions that hold whole users in order, and the kernels that run over them.

in   events with split and reason; items with their ids
out  _part 0, user_id 'ann', _split_rank 0, _ts_us 1767607200000000, item_idx 3, weight 1.0, event_type 0

One shuffle: partitions are ranges of ``user_id``, sorted inside by (user, split rank, ts, event_id). Histories and
sessions are both read off that order, and counting users a partition gives every user a dense id without a join.
"""

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from recspark.contracts import columns as c
from recspark.sessions.clean import REASON
from recspark.sessions.user_events import BASKET, PART, RANK, TS_US, UserEvents, read_users

_RANKED_SPLITS = sorted(c.SPLITS, key=c.SPLIT_RANK.__getitem__)


def sort_by_user(
    prepared: DataFrame, items: DataFrame, event_types: Sequence[str], order: Sequence[str], has_baskets: bool
) -> DataFrame:
    """The events that reach sessions and histories: kept ones, without the train events of rare items.

    ``order`` are the columns of the total order of a user's events.
    """
    ids = items.where(F.col(c.FIRST_SEEN).isNotNull()).select(c.ITEM_ID, c.ITEM_IDX, c.ACTIVE)
    rank = _place(c.SPLIT, _RANKED_SPLITS)
    columns = [
        F.spark_partition_id().alias(PART),
        F.col(c.USER_ID),
        rank.alias(RANK),
        F.unix_micros(c.TS).alias(TS_US),
        F.col(c.ITEM_IDX),
        F.col(c.WEIGHT),
        _place(c.EVENT_TYPE, event_types).alias(c.EVENT_TYPE),
        *([F.col(c.BASKET_ID).alias(BASKET)] if has_baskets else []),
    ]
    return (
        prepared.where(F.col(REASON).isNull())
        .join(ids, c.ITEM_ID)
        .where(F.col(c.ACTIVE) | (F.col(c.SPLIT) != c.TRAIN))
        .repartitionByRange(F.col(c.USER_ID))
        .sortWithinPartitions(c.USER_ID, rank, *order)
        .select(*columns)
    )


def _place(column: str, values: Sequence[str]) -> Column:
    """The value's place in a short list."""
    return (F.array_position(F.array(*map(F.lit, values)), F.col(column)) - 1).cast("tinyint")


def find_first_users(known: DataFrame) -> dict[int, int]:
    """For each partition the number of users in the partitions before it."""
    rows = known.groupBy(PART).agg(F.count_distinct(c.USER_ID).alias("num_users")).orderBy(PART).collect()
    first_users, total = {}, 0
    for row in rows:
        first_users[row[PART]] = total
        total += row["num_users"]
    return first_users


def map_users(
    known: DataFrame,
    first_users: dict[int, int],
    kernel: Callable[[UserEvents], pa.RecordBatch],
    schema: pa.Schema,
) -> DataFrame:
    """A kernel's rows for all users. ``kernel`` lives in an importable module, as Spark ships it by name."""

    def run_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return map(kernel, read_users(batches, first_users))

    return known.mapInArrow(run_partition, from_arrow_schema(schema))
