"""What a piece of work on a warm Spark session cost: seconds of the whole process tree, shuffled and written bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.process_tree import timed_tree


def measure(spark: SparkSession, work: Callable[[], Any]) -> dict[str, float]:
    """{"wall", "cpu", "shuffle_bytes"} of a piece of work; garbage of earlier work is collected before."""
    spark.sparkContext._jvm.System.gc()  # type: ignore[union-attr]
    before = shuffle_bytes(spark)
    with timed_tree() as timing:
        work()
    return {"wall": timing.wall, "cpu": timing.cpu, "shuffle_bytes": shuffle_bytes(spark) - before}


def shuffle_bytes(spark: SparkSession) -> int:
    """Bytes that all tasks of this application have written to shuffles so far, compressed as they travel."""
    context = spark.sparkContext._jsc.sc()
    context.listenerBus().waitUntilEmpty()
    executors = context.statusStore().executorList(False)
    return sum(int(executors.apply(i).totalShuffleWrite()) for i in range(executors.size()))


def folder_bytes(folder: str) -> int:
    """Bytes of all files below a folder, 0 where there is none."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
