"""Shows on a terminal, or every ten seconds in a log, how far Spark's running jobs are."""

import sys
import threading
from typing import Self

from pyspark.sql import SparkSession

from recspark.logs import is_terminal, log


class SparkProgress:
    """A background thread that asks Spark's status tracker; stops with its ``with`` block."""

    def __init__(self, spark: SparkSession) -> None:
        self._tracker = spark.sparkContext.statusTracker()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._drawn = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._ended.wait(0.5 if is_terminal() else 10.0):
            try:
                infos = [i for s in self._tracker.getActiveStageIds() if (i := self._tracker.getStageInfo(s))]
            except Exception:  # the JVM may be going down; progress is no reason to fail
                return
            self._show(sum(i.numCompletedTasks for i in infos), sum(i.numTasks for i in infos))

    def _show(self, done: int, total: int) -> None:
        if not is_terminal():
            if total:
                log("spark", "progress", tasks_done=done, tasks=total)
        elif total or self._drawn:
            text = f"spark      {done} of {total} tasks" if total else ""
            print(f"\r\x1b[K{text}", end="", flush=True, file=sys.stderr)
            self._drawn = bool(total)
