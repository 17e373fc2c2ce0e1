"""Replicated mode: every machine maps the whole graph, start nodes are dealt to tasks, nothing is shuffled.

Locally the workers read the driver's files; on a cluster Spark ships a copy to each executor.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from recspark.contracts.tables import WALKS
from recspark.walks.graph_files import ARRAYS, GraphFiles, write_graph
from recspark.walks.starts import Starts
from recspark.walks.walk_graph import WalkGraph
from recspark.walks.workers import WalkTask, walk_batches, walk_chunk

_published: dict[tuple[str, str], GraphFiles] = {}
_MAX_OPEN_EPOCHS = 8


def publish_graph(
    spark: SparkSession, identity: dict[str, Any], make: Callable[[], tuple[WalkGraph, Starts]]
) -> GraphFiles:
    """Files that workers can open: made and written once in a Spark session for one ``identity``, then reused.

    ``identity`` is all that decides the arrays: table version and knobs. ``make`` yields (graph, starts).
    """
    name = "graph-" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    place = (str(spark.sparkContext.applicationId), name)
    if place not in _published:
        files = write_graph(name, *make(), _scratch_folder(spark))
        _published[place] = files if is_on_one_machine(spark) else _ship(spark, files)
    return _published[place]


def is_on_one_machine(spark: SparkSession) -> bool:
    """Whether workers see the driver's disk for certain: threads of the driver's JVM start them."""
    master = str(spark.sparkContext.master)
    return master.startswith("local") and not master.startswith("local-cluster")


def _scratch_folder(spark: SparkSession) -> str | None:
    """The first of Spark's own scratch folders, None where it is left to the system's default."""
    folders = os.environ.get("SPARK_LOCAL_DIRS") or spark.sparkContext.getConf().get("spark.local.dir")
    return folders.split(",")[0] if folders else None


def _ship(spark: SparkSession, files: GraphFiles) -> GraphFiles:
    for array in ARRAYS:
        spark.sparkContext.addFile(files.path(array))
    return GraphFiles(files.name, folder=None)


def compile_kernels(task: WalkTask) -> None:
    """Walks one walk here, so that workers find the compiled kernels in numba's cache instead of compiling each."""
    walk_chunk(task.first_walk(), 0)


def walk_frame(spark: SparkSession, task: WalkTask, num_partitions: int) -> DataFrame:
    """All walks, as rows of the table; the same rows for any number of partitions."""
    chunks = spark.range(0, task.num_chunks, 1, num_partitions)
    return chunks.mapInArrow(partial(walk_batches, task=task), from_arrow_schema(WALKS.schema))


@contextmanager
def unsorted_writes(spark: SparkSession, num_epochs: int) -> Iterator[None]:
    """Lets a task write several epochs' files at once, where Spark would sort all its walks by epoch first."""
    setting = "spark.sql.maxConcurrentOutputFileWriters"
    before = spark.conf.get(setting, "0")
    spark.conf.set(setting, str(min(num_epochs, _MAX_OPEN_EPOCHS)))
    try:
        yield
    finally:
        spark.conf.set(setting, str(before))
