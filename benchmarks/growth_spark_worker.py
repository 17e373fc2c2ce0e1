"""One size of `growth_spark` in a process of its own: the chain's Spark stages one by one, each with what it cost."""

from collections.abc import Callable
from typing import Any

from benchmarks.process_tree import MemoryWatch
from benchmarks.spark_cost import folder_bytes, measure
from benchmarks.worker import serve
from recspark.graph.job import build_graph
from recspark.lake.arrow import find_done
from recspark.lake.spark import build_spark
from recspark.pipeline.open_run import open_run
from recspark.sessions.job import build_sessions
from recspark.sources.job import ingest
from recspark.walks.job import build_walks

STAGES: dict[str, Callable[..., None]] = {
    "ingest": ingest,
    "sessions": build_sessions,
    "graph": build_graph,
    "walks": build_walks,
}
_held: dict[str, Any] = {}


def load(conf: str) -> None:
    """Starts Spark with a config's settings."""
    _held["spark"] = build_spark(open_run(conf))


def warm_up(conf: str) -> None:
    """Runs a config's stages untimed: code is compiled, workers are there."""
    for stage in STAGES.values():
        stage(_held["spark"], open_run(conf))


def run(conf: str, stage: str) -> dict[str, Any]:
    """Seconds, bytes, largest memory and the commit's counts of one stage."""
    opened = open_run(conf)
    before = folder_bytes(opened.lake)
    with MemoryWatch() as watch:
        cost = measure(_held["spark"], lambda: STAGES[stage](_held["spark"], opened))
    cost["cpu"] -= watch.cpu_seconds
    done = find_done(opened.lake, opened.stages[stage])
    assert done, "the stage has just committed"
    output_bytes = folder_bytes(opened.lake) - before
    return cost | {"output_bytes": output_bytes, "peak_bytes": watch.peak, "counts": done[1].counts}


if __name__ == "__main__":
    serve({"load": load, "warm_up": warm_up, "run": run})
