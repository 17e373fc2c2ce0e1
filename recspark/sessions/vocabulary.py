"""Dense item ids: by number of train events, the most popular first.

in   kept events with their split; ids of the items that features know
out  items: item_idx 0, item_id 'B7', num_events 812, first_seen 2026-01-05 ..., active true

`num_events` counts train events and nothing else. Items seen only in valid, test or context, items with fewer train
events than `vocabulary.min_item_events` (rare), and items known only by features have 0 and are not active; they come
after the active ones. A rare item's train events are dropped; its others stay, as misses in an evaluation.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recspark.contracts import columns as c
from recspark.lake.spark import number_rows
from recspark.sessions.clean import REASON

TRAIN_EVENTS = "_train_events"
"""Train events before rare items were dropped."""


def count_items(prepared: DataFrame) -> DataFrame:
    """One row an item of the kept events: item_id, its train events, its first time in any split."""
    is_train = F.when(F.col(c.SPLIT) == c.TRAIN, 1)
    return (
        prepared.where(F.col(REASON).isNull())
        .groupBy(c.ITEM_ID)
        .agg(F.count(is_train).alias(TRAIN_EVENTS), F.min(c.TS).alias(c.FIRST_SEEN))
    )


def build_items(counted: DataFrame, feature_items: DataFrame | None, min_item_events: int) -> DataFrame:
    """The table `items` without features, sorted by its dense ``item_idx``, and ``TRAIN_EVENTS``.

    ``feature_items`` holds each id that features know once; those of no event are appended.

    Ids are the places in a sort by (num_events desc, item_id), a total order: the same for any partitioning and retry.
    """
    if feature_items is not None:
        counted = counted.join(feature_items, c.ITEM_ID, "full_outer")
    train_events = F.coalesce(TRAIN_EVENTS, F.lit(0))
    items = (
        counted.withColumn(TRAIN_EVENTS, train_events)
        .withColumn(c.NUM_EVENTS, F.when(train_events >= min_item_events, train_events).otherwise(0).cast("long"))
        .withColumn(c.ACTIVE, F.col(c.NUM_EVENTS) > 0)
        .orderBy(F.desc(c.NUM_EVENTS), F.asc(c.ITEM_ID))
    )
    return number_rows(items, c.ITEM_IDX)
