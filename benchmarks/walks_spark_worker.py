"""The project's side of `walks_spark`: stage `walks` on a lake that has a graph, in a JVM that stays warm."""

from typing import Any

import numpy as np
from deltalake import DeltaTable

from benchmarks.spark_cost import measure
from benchmarks.spark_lakes import plan_lake, write_item_graph
from benchmarks.walk_graphs import make_graph
from benchmarks.walks_worker import SAMPLE
from benchmarks.worker import serve
from recspark.lake.arrow import table_uri
from recspark.lake.spark import build_spark
from recspark.walks.job import build_walks

_held: dict[str, Any] = {}


def load(settings: dict[str, Any], lake: str) -> None:
    """Starts Spark."""
    _held.update(settings=settings, spark=build_spark(plan_lake(lake, settings)))


def write(lake: str, nodes: int, edges: int) -> None:
    """A lake with a graph."""
    write_item_graph(plan_lake(lake, _held["settings"]), make_graph(nodes, edges))


def run(lake: str, sample: str) -> dict[str, float]:
    """Graph to committed walks; some of them into a file."""
    planned = plan_lake(lake, _held["settings"])
    cost = measure(_held["spark"], lambda: build_walks(_held["spark"], planned))
    rows = DeltaTable(table_uri(lake, "walks")).to_pyarrow_table(columns=["walk"])["walk"].combine_chunks()
    walks = rows.flatten().to_numpy().reshape(len(rows), -1)  # all full: the graph has no dead ends
    np.save(sample, walks[:: max(1, len(walks) // SAMPLE)])
    return cost | {"num_walks": len(walks)}


if __name__ == "__main__":
    serve({"load": load, "write": write, "run": run})
