"""Stage graph_edges (`graph.edge_table`): `item_graph` -> `item_graph_edges`, a row an edge.

src_idx 4, dst_idx [9, 2], score [.7, .3], count [5, 1]   ->   src 4, dst 9, weight .7, count 5, src_id d, dst_id i
                                                               src 4, dst 2, weight .3, count 1, src_id d, dst_id b
"""

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.contracts.tables import ITEM_GRAPH_EDGES
from recspark.faults import fault_point
from recspark.lake.arrow import find_table
from recspark.lake.spark import read_table, write_table
from recspark.logs import log

STAGE = "graph_edges"


def build_graph_edges(spark: SparkSession, run: Run) -> None:
    """Writes the run's own graph as edges. A stage of its own: asking for it does not build the graph again."""
    graph = find_table(run.lake, run.producer("item_graph"), "item_graph")
    items = find_table(run.lake, run.producer("items"), "items")
    edges = flatten_graph(read_table(spark, graph), read_table(spark, items)).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        record = run.record(
            STAGE,
            is_marker=True,
            inputs={graph.name: graph.version, items.name: items.version},
            counts={"num_edges": edges.count()},
        )
        version = write_table(edges, run.lake, ITEM_GRAPH_EDGES, record)
        fault_point(f"{STAGE}.after_commit")
    finally:
        edges.unpersist()
    log(STAGE, f"done at version {version}", **record.counts)


def flatten_graph(graph: DataFrame, items: DataFrame) -> DataFrame:
    """Rows of `item_graph_edges`."""
    neighbours = F.explode(F.arrays_zip(c.DST_IDX, c.SCORE, c.COUNT)).alias("e")
    edges = graph.select(F.col(c.SRC_IDX).alias(c.SRC), neighbours).select(
        c.SRC,
        F.col(f"e.{c.DST_IDX}").alias(c.DST),
        F.col(f"e.{c.SCORE}").alias(c.WEIGHT),
        F.col(f"e.{c.COUNT}").alias(c.COUNT),
    )
    for end, id_ in ((c.SRC, c.SRC_ID), (c.DST, c.DST_ID)):
        names = items.select(F.col(c.ITEM_IDX).alias(end), F.col(c.ITEM_ID).alias(id_))
        edges = edges.join(names, end)
    return edges
