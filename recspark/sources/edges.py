"""An edge list straight into `items` and `item_graph`: the way in for graph benchmarks.

    a,b,2.0          items       item_idx 0 a (degree 2), 1 b (1), 2 c (1)
    a,c,1.0    ->    item_graph  0: dst [1, 2], score [2.0, 1.0]     1: dst [0], score [2.0]     2: dst [0], score [1.0]

`num_events` is the degree: the number of a node's edges after duplicates are joined, in and out ones if directed. A
node that only has a self loop stays, with degree 0.
"""

from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.config.source import SourceConfig
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEM_GRAPH, ITEMS, QUARANTINE
from recspark.faults import fault_point
from recspark.lake.arrow import TableAt
from recspark.lake.spark import number_rows, read_table, spark_schema, write_table
from recspark.logs import log
from recspark.sources.mapping import LARGEST_FLOAT
from recspark.sources.outcomes import (
    STAGE,
    bad_rows,
    check_counts,
    count_outcomes,
    log_done,
    sum_outcomes,
    write_quarantine,
)
from recspark.sources.privacy import describe_privacy, hide_edges
from recspark.sources.problems import find_flaw, first_problem
from recspark.sources.rows import BAD_LINE, ROW, source_column, source_names
from recspark.sources.rules import DROPPED_BY, add_dropped_by, number_text, struct_text
from recspark.sources.wanted import check_columns, name_source, source_columns

SELF_LOOP = "self_loop"
SRC, DST = "src", "dst"


def ingest_edges(spark: SparkSession, run: Run, rows: DataFrame) -> None:
    """Commits quarantine, `items`, then `item_graph` as marker.

    Raises: SourceError for missing columns, an empty list or too many bad rows.
    """
    check_columns(source_names(rows), source_columns(run.config.source), name_source(run.config.source))
    mapped = map_edges(hide_edges(rows, run.config.source), run.config.source).persist()
    try:
        counts = sum_outcomes(count_outcomes(mapped))
        check_counts(run, counts, mapped)
        quarantine_version = write_quarantine(run, bad_rows(run, mapped))
        fault_point("ingest.between_tables")
        items = _write_items(spark, run, mapped)
        versions = {QUARANTINE.name: quarantine_version, ITEMS.name: items.version}
        _write_graph(spark, run, mapped, items, versions, counts)
    finally:
        mapped.unpersist()


def map_edges(rows: DataFrame, source: SourceConfig) -> DataFrame:
    """Columns ``src``, ``dst``, ``weight``, ``dropped_by``, ``reason``, ``raw``, ``source_file``."""
    ends = {
        # The names by which the rules expect rows to lie together.
        c.USER_ID: source_column(source.src_column).cast("string"),
        c.ITEM_ID: source_column(source.dst_column).cast("string"),
    }
    ruled = add_dropped_by(rows.withColumns(ends).repartition(c.USER_ID, c.ITEM_ID), source.rules)
    named = ruled.withColumnsRenamed({c.USER_ID: SRC, c.ITEM_ID: DST})
    weight = F.lit(1.0)
    if source.weight_column is not None:
        weight = number_text(source_column(source.weight_column).cast("string"))
        weight = F.when(F.abs(weight) < LARGEST_FLOAT, weight)  # item_graph has float32
    weighed = named.withColumn(c.WEIGHT, weight)
    reason = F.when(F.col(DROPPED_BY).isNull(), _find_reason(weighed, source))
    is_loop = F.col(DROPPED_BY).isNull() & F.col(c.REASON).isNull() & (F.col(SRC) == F.col(DST))
    raw = F.when(F.col(c.REASON).isNotNull(), F.coalesce(F.col(BAD_LINE), struct_text(F.col(ROW))))
    return weighed.withColumn(c.REASON, reason).select(
        SRC, DST, c.WEIGHT, F.when(is_loop, SELF_LOOP).otherwise(F.col(DROPPED_BY)).alias(DROPPED_BY), c.REASON,
        raw.alias(c.RAW), c.SOURCE_FILE,
    )  # fmt: skip


def join_duplicates(edges: DataFrame, directed: bool) -> DataFrame:
    """Distinct (src, dst) with summed weights; undirected edges both ways."""
    if not directed:
        backward = edges.select(F.col(DST).alias(SRC), F.col(SRC).alias(DST), c.WEIGHT)
        edges = edges.select(SRC, DST, c.WEIGHT).unionByName(backward)
    # Summed in sorted order: the last bit of a float sum must not hang on which task came first.
    weights = F.array_sort(F.collect_list(c.WEIGHT))
    total = F.aggregate(weights, F.lit(0.0), lambda total, weight: total + weight)
    return edges.groupBy(SRC, DST).agg(total.alias(c.WEIGHT))


def build_items(edges: DataFrame, loops: DataFrame, directed: bool) -> DataFrame:
    """`items` of distinct edges: ids dense from 0 by degree descending, then id; ``loops`` bring nodes of degree 0."""
    ends = edges.select(F.col(SRC).alias(c.ITEM_ID), F.lit(1).alias("_one"))
    if directed:
        ends = ends.unionByName(edges.select(F.col(DST).alias(c.ITEM_ID), F.lit(1).alias("_one")))
    nodes = ends.unionByName(loops.select(F.col(SRC).alias(c.ITEM_ID), F.lit(0).alias("_one")))
    degrees = nodes.groupBy(c.ITEM_ID).agg(F.sum("_one").cast("bigint").alias(c.NUM_EVENTS))
    return number_rows(degrees.orderBy(F.desc(c.NUM_EVENTS), F.asc(c.ITEM_ID)), c.ITEM_IDX).select(
        c.ITEM_IDX,
        c.ITEM_ID,
        c.NUM_EVENTS,
        F.timestamp_seconds(F.lit(0)).alias(c.FIRST_SEEN),
        F.lit(True).alias(c.ACTIVE),
    )


def build_graph(edges: DataFrame, items: DataFrame, num_neighbours: int | None = None) -> DataFrame:
    """`item_graph` rows of distinct edges: neighbours by score descending, then dst_idx; the best or all of them."""
    src = items.select(F.col(c.ITEM_ID).alias(SRC), F.col(c.ITEM_IDX).alias(c.SRC_IDX))
    dst = items.select(F.col(c.ITEM_ID).alias(DST), F.col(c.ITEM_IDX).alias(c.DST_IDX))
    score = F.col(c.WEIGHT).cast("float")
    neighbour = F.struct((-score).alias("_order"), c.DST_IDX, score.alias(c.SCORE))
    ordered = F.array_sort(F.collect_list(neighbour))
    kept = ordered if num_neighbours is None else F.slice(ordered, 1, num_neighbours)
    best = edges.join(src, SRC).join(dst, DST).groupBy(c.SRC_IDX).agg(kept.alias("n"))
    graph = best.select(
        c.SRC_IDX,
        F.col(f"n.{c.DST_IDX}").alias(c.DST_IDX),
        F.col(f"n.{c.SCORE}").alias(c.SCORE),
        F.transform("n", lambda _: F.lit(1)).alias(c.COUNT),
    )
    return graph.select(*[F.col(f.name).cast(f.dataType) for f in spark_schema(ITEM_GRAPH).fields])


def _find_reason(weighed: DataFrame, source: SourceConfig) -> Column:
    is_bad_line = F.when(F.col(BAD_LINE).isNotNull(), F.lit("unparsable_line"))
    flaws = [find_flaw(weighed, name, source.max_id_bytes) for name in (SRC, DST)]
    of_weight = [
        (F.col(c.WEIGHT).isNull(), "unreadable_weight"),
        (F.col(c.WEIGHT).cast("float") <= 0, "not_positive_weight"),
    ]
    return F.coalesce(is_bad_line, *flaws, first_problem(of_weight))


def _distinct_edges(run: Run, mapped: DataFrame) -> DataFrame:
    kept = mapped.where(F.col(DROPPED_BY).isNull() & F.col(c.REASON).isNull())
    return join_duplicates(kept, bool(run.config.source.directed))


def _write_items(spark: SparkSession, run: Run, mapped: DataFrame) -> TableAt:
    loops = mapped.where(F.col(DROPPED_BY) == SELF_LOOP)
    items = build_items(_distinct_edges(run, mapped), loops, bool(run.config.source.directed))
    record = run.record(STAGE, is_marker=False)
    return TableAt(run.lake, ITEMS.name, write_table(items, run.lake, ITEMS, record), record)


def _write_graph(
    spark: SparkSession, run: Run, mapped: DataFrame, items: TableAt, versions: dict[str, int], counts: dict[str, Any]
) -> None:
    # The ids of the committed table, not of a second computation.
    nodes = read_table(spark, items)
    source = run.config.source
    graph = build_graph(_distinct_edges(run, mapped), nodes, source.num_neighbours).persist()
    try:
        counts = counts | _count_graph(graph, nodes.count())
        record = run.record(
            STAGE,
            is_marker=True,
            tables=versions,
            inputs={"source": run.source},
            counts=counts,
            facts={"order": "none", "source": run.source_facts, "directed": source.directed} | describe_privacy(source),
        )
        log_done(write_table(graph, run.lake, ITEM_GRAPH, record), counts)
        if source.directed and run.config.walks and run.config.walks.symmetrize:
            log(STAGE, "walks will go both ways along the directed edges; walks.symmetrize: false keeps directions")
    finally:
        graph.unpersist()


def _count_graph(graph: DataFrame, num_nodes: int) -> dict[str, int]:
    """Nodes, stored edges, and isolated nodes: those without an edge out or in."""
    ends = graph.select(c.SRC_IDX, F.explode(c.DST_IDX).alias(c.DST_IDX))
    connected = ends.select(c.SRC_IDX).union(ends.select(c.DST_IDX)).distinct().count()
    return {"items": num_nodes, "edges": ends.count(), "isolated": num_nodes - connected}
