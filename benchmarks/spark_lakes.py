"""Lakes that hold a stage's tables without the stages before it, and fresh copies of them to run a stage on.

A stage finds its inputs by key and does nothing twice: each timed run gets a lake of its own in which its inputs are
done and it is not.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from benchmarks.session_data import SessionData, items_table, sessions_table, users_table
from recspark.config import Run, RunConfig, plan_run
from recspark.contracts.tables import ITEM_GRAPH, ITEMS, SESSIONS, USERS
from recspark.graph.csr import Csr
from recspark.lake import spark as lake_spark
from recspark.lake.arrow import write_table

SESSION_FILES = 4
"""As a stage on a few cores leaves them: one file would be one task."""


def plan_lake(lake: str, settings: dict[str, Any]) -> Run:
    """The run of these settings on a lake; its source is never looked at."""
    source = {"kind": "files", "path": "none.csv", "format": "csv", "columns": {"ts": "ts"}}
    needed = {"source": source, "split": {"kind": "time", "cut": "2027-01-01"}, "index": None, "evaluate": None}
    values = needed | settings | {"paths": {"lake": lake}}
    return plan_run(RunConfig.model_validate(values), {"fingerprint": "benchmark"})


def write_sessions(spark: SparkSession, run: Run, data: SessionData) -> None:
    """Commits what stage `sessions` would: items, users and sessions, the latter by Spark in a few files."""
    num_events = np.bincount(data.items, minlength=data.num_items)
    tables = {"items": _write_side(run, ITEMS, items_table(num_events))}
    tables["users"] = _write_side(run, USERS, users_table(data))
    record = run.record("sessions", is_marker=True, tables=tables)
    raw = Path(run.lake) / "sessions.parquet"
    pq.write_table(sessions_table(data), raw)
    frame = spark.read.parquet(str(raw)).repartition(SESSION_FILES)
    lake_spark.write_table(frame, run.lake, SESSIONS, record)
    raw.unlink()


def _write_side(run: Run, spec: Any, rows: pa.Table) -> int:
    return write_table(run.lake, spec, rows, run.record("sessions", is_marker=False))


def write_item_graph(run: Run, graph: Csr) -> None:
    """Commits what stage `ingest` would of an edge list: items and their graph; nodes keep their numbers."""
    items = items_table(np.diff(graph.indptr))
    version = write_table(run.lake, ITEMS, items, run.record("ingest", is_marker=False))
    rows = graph_table(graph)
    write_table(run.lake, ITEM_GRAPH, rows, run.record("ingest", is_marker=True, tables={"items": version}))


def graph_table(graph: Csr) -> pa.Table:
    """Rows of `item_graph`, one a node; neighbours in order of their numbers, supports of 1."""
    offsets = pa.array(graph.indptr.astype(np.int32))
    values = (graph.indices, graph.weights, np.ones(graph.num_edges, np.int32))
    lists = [pa.ListArray.from_arrays(offsets, pa.array(v)) for v in values]
    src = pa.array(np.arange(graph.num_nodes, dtype=np.int32))
    return pa.table([src, *lists], ITEM_GRAPH.schema.names).cast(ITEM_GRAPH.schema)


class Copies:
    """Numbered copies of a lake; only the newest of each name is kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}
        self._count = 0

    def make(self, lake: str, name: str) -> str:
        """A fresh copy, at a path where no table has been before."""
        self._count += 1
        if name in self._made:
            shutil.rmtree(self._made[name])
        self._made[name] = Path(shutil.copytree(lake, self._folder / f"{name}-{self._count}"))
        return str(self._made[name])
