"""The peer of `cooccurrence_spark`: the same graph in Spark SQL, as it is commonly written, tuned.

sessions -> units -> pairs (i < j) with weight -> sum and support a pair -> score -> both directions -> window, top N

Half of the pairs only, int keys, sums combined before the shuffle, the score made before a pair is written both ways,
counts of items broadcast; Spark itself prunes rows below rank N before the window's shuffle.
"""

from collections.abc import Callable

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recspark.config.graph import GraphConfig
from recspark.contracts import columns as c

_LEFT, _RIGHT, _UNIT, _UNIT_WEIGHT, _NUM_UNITS, _RANK = "i", "j", "unit", "unit_weight", "num_units", "rank"


def read_units(sessions: DataFrame, config: GraphConfig) -> DataFrame:
    """Train sessions with an int key, distinct items within the cap, and the weight of their pairs."""
    items, most = F.col(c.ITEM_IDX), config.max_session_items
    capped = F.array_distinct(F.when(F.size(items) > most, F.slice(items, -most, most)).otherwise(items))
    train = sessions.where(F.col(c.SPLIT) == c.TRAIN)
    units = train.select(F.col(c.SESSION_ID).cast("long").alias(_UNIT), capped.alias(c.ITEM_IDX))
    return units.withColumn(_UNIT_WEIGHT, F.pow(F.size(c.ITEM_IDX).cast("double"), F.lit(-config.length_power)))


def join_pairs(units: DataFrame) -> DataFrame:
    """One row a session and pair, by joining the sessions' items with themselves."""
    events = units.select(_UNIT, _UNIT_WEIGHT, F.explode(c.ITEM_IDX).alias(_LEFT))
    others = events.select(_UNIT, F.col(_LEFT).alias(_RIGHT))
    return events.join(others, _UNIT).where(F.col(_LEFT) < F.col(_RIGHT)).select(_LEFT, _RIGHT, _UNIT_WEIGHT)


def unfold_pairs(units: DataFrame) -> DataFrame:
    """The same rows without a join: each session's sorted items paired with those after them."""
    items = F.array_sort(c.ITEM_IDX)

    def pairs_of(item: Column, place: Column) -> Column:
        later = F.slice(items, place + 2, F.size(items))
        return F.transform(later, lambda other: F.struct(item.alias(_LEFT), other.alias(_RIGHT)))

    pairs = F.explode(F.flatten(F.transform(items, pairs_of)))
    return units.select(_UNIT_WEIGHT, pairs.alias("pair")).select(f"pair.{_LEFT}", f"pair.{_RIGHT}", _UNIT_WEIGHT)


def build_graph(units: DataFrame, pairs: DataFrame, num_neighbours: int) -> DataFrame:
    """Rows of `item_graph` by cosine."""
    summed = pairs.groupBy(_LEFT, _RIGHT).agg(
        F.sum(_UNIT_WEIGHT).alias(_UNIT_WEIGHT), F.count("*").cast("int").alias(c.COUNT)
    )
    return _keep_best(_write_both_ways(_score(summed, units)), num_neighbours)


def _score(pairs: DataFrame, units: DataFrame) -> DataFrame:
    events = units.select(F.explode(c.ITEM_IDX).alias(_LEFT))
    counts = events.groupBy(_LEFT).agg(F.count("*").alias(_NUM_UNITS))
    others = counts.select(F.col(_LEFT).alias(_RIGHT), F.col(_NUM_UNITS).alias("num_units_right"))
    known = pairs.join(F.broadcast(counts), _LEFT).join(F.broadcast(others), _RIGHT)
    root = F.sqrt(F.col(_NUM_UNITS).cast("double") * F.col("num_units_right"))
    return known.select(_LEFT, _RIGHT, (F.col(_UNIT_WEIGHT) / root).cast("float").alias(c.SCORE), c.COUNT)


def _write_both_ways(pairs: DataFrame) -> DataFrame:
    def edge(src: str, dst: str) -> Column:
        return F.struct(F.col(src).alias(c.SRC_IDX), F.col(dst).alias(c.DST_IDX), c.SCORE, c.COUNT)

    return pairs.select(F.explode(F.array(edge(_LEFT, _RIGHT), edge(_RIGHT, _LEFT))).alias("edge")).select("edge.*")


def _keep_best(edges: DataFrame, num_neighbours: int) -> DataFrame:
    best_first = Window.partitionBy(c.SRC_IDX).orderBy(F.desc(c.SCORE), F.asc(c.DST_IDX))
    ranked = edges.withColumn(_RANK, F.row_number().over(best_first)).where(F.col(_RANK) <= num_neighbours)
    row = F.sort_array(F.collect_list(F.struct(_RANK, c.DST_IDX, c.SCORE, c.COUNT))).alias("row")
    lists = [F.col(f"row.{name}").alias(name) for name in (c.DST_IDX, c.SCORE, c.COUNT)]
    return ranked.groupBy(c.SRC_IDX).agg(row).select(c.SRC_IDX, *lists)


PEERS: dict[str, Callable[[DataFrame], DataFrame]] = {
    "Spark self-join and window": join_pairs,
    "Spark pairs unfolded in place and window": unfold_pairs,
}
