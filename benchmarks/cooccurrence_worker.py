"""Both sides of `cooccurrence_spark` in one JVM: stage `graph`, and Spark SQL on the same version of `sessions`."""

from typing import Any

from benchmarks.session_data import make_sessions
from benchmarks.spark_cost import measure
from benchmarks.spark_join import PEERS, build_graph, read_units
from benchmarks.spark_lakes import plan_lake, write_sessions
from benchmarks.worker import serve
from recspark.graph.job import build_graph as build_graph_stage
from recspark.lake.arrow import find_table, table_uri
from recspark.lake.spark import build_spark, read_table

_held: dict[str, Any] = {}


def load(settings: dict[str, Any], lake: str) -> None:
    """Starts Spark."""
    _held.update(settings=settings, spark=build_spark(plan_lake(lake, settings)))


def write(lake: str, num_sessions: int, num_items: int) -> None:
    """A lake with sessions."""
    write_sessions(_held["spark"], plan_lake(lake, _held["settings"]), make_sessions(num_sessions, num_items))


def run_project(lake: str) -> dict[str, Any]:
    """Sessions to committed item_graph."""
    run = plan_lake(lake, _held["settings"])
    cost = measure(_held["spark"], lambda: build_graph_stage(_held["spark"], run))
    return cost | {"table": table_uri(lake, "item_graph")}


def run_peer(lake: str, peer: str, shuffle_partitions: int) -> dict[str, Any]:
    """The same in Spark SQL, to a Delta table of its own."""
    spark, run = _held["spark"], plan_lake(lake, _held["settings"])
    usual = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", str(shuffle_partitions))
    try:
        return measure(spark, lambda: _build(run, peer, f"{lake}/peer")) | {"table": f"{lake}/peer"}
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", usual)


def _build(run: Any, peer: str, table: str) -> None:
    config = run.config.graph
    sessions = find_table(run.lake, run.stages["sessions"], "sessions")
    units = read_units(read_table(_held["spark"], sessions), config)
    graph = build_graph(units, PEERS[peer](units), config.num_neighbours)
    graph.write.format("delta").mode("overwrite").save(table)


if __name__ == "__main__":
    serve({"load": load, "write": write, "run_project": run_project, "run_peer": run_peer})
