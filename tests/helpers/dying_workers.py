"""Ingest, sessions and graphs by Python workers each of which dies once in the middle of a task. Run as a program.

Prints one JSON line: where workers died, and the digests of all tables of that lake and of one where none died.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from recspark.config import Run, RunConfig, plan_run
from recspark.graph import cooccurrence, daily
from recspark.graph.job import build_graph
from recspark.sessions import tables
from recspark.sessions.job import build_sessions
from recspark.sources import synthetic
from recspark.sources.job import ingest
from tests.helpers.faults import content

KERNELS = (
    (tables, "build_histories"),
    (tables, "build_sessions_of"),
    (cooccurrence, "pack_batches"),
    (cooccurrence, "reduce_batches"),
    (daily, "reduce_to_sums"),
    (daily, "merge_sums"),
    (daily, "score_sums"),
)
GENERATOR = "generator"
TINY = {
    "source": {"kind": "synthetic", "synthetic": {"num_users": 80, "num_items": 60, "num_clusters": 4}},
    "clean": {"max_user_events": 2000},
    "split": {"kind": "time", "cut": "2026-02-16"},
}


def once(marker: str) -> bool:
    """Whether nobody has asked before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die_once(*arguments: Any, inner: Callable[..., Any], marker: str, **named: Any) -> Any:
    """A kernel, except that the first process to have a result ends without a word."""
    found = inner(*arguments, **named)
    if isinstance(found, Iterator):
        return die_in_between(found, marker)
    if once(marker):
        os._exit(1)
    return found


def die_in_between(batches: Iterator[Any], marker: str) -> Iterator[Any]:
    """The batches, up to the first one of the first process."""
    for batch in batches:
        yield batch
        if once(marker):
            os._exit(1)


def make_mortal(folder: Path) -> None:
    """Puts dying kernels in place of all kernels that workers run."""
    for module, name in KERNELS:
        setattr(module, name, partial(die_once, inner=getattr(module, name), marker=str(folder / name)))
    make = synthetic.make_generator
    synthetic.make_generator = lambda *args: partial(die_once, inner=make(*args), marker=str(folder / GENERATOR))


def build(spark: Any, plain: Run, incremental: Run) -> dict[str, str]:
    """Digests of all tables of the stages."""
    ingest(spark, plain)
    build_sessions(spark, plain)
    build_graph(spark, plain)
    build_graph(spark, incremental)
    found = content(plain, ("ingest", "sessions", "graph")) | {
        f"incremental {name}": rows for name, rows in content(incremental, ("graph",)).items()
    }
    return {name: hashlib.sha256("\n".join(rows).encode()).hexdigest() for name, rows in found.items()}


def plan(folder: Path, lake: str, master: str, **sections: Any) -> Run:
    """A run over the generator's events."""
    spark = {"master": master, "driver_memory": "1g"}
    values = TINY | {"paths": {"lake": str(folder / lake)}, "spark": spark} | sections
    return plan_run(RunConfig.model_validate(values), {"fingerprint": "tests", "kind": "synthetic"})


def main(master: str, folder: str) -> None:
    """Builds two lakes on ``master``; first the one without deaths, as a died worker's kernels stay in place."""
    from recspark.lake.spark import build_spark

    place = Path(folder)
    graph = {"graph": {"incremental": True}}
    runs = {lake: (plan(place, lake, master), plan(place, lake, master, **graph)) for lake in ("calm", "mortal")}
    spark = build_spark(runs["calm"][0])
    found: dict[str, Any] = {"calm": build(spark, *runs["calm"])}
    make_mortal(place)
    found["mortal"] = build(spark, *runs["mortal"])
    found["died"] = [name for name in (GENERATOR, *(n for _, n in KERNELS)) if (place / name).exists()]
    print(json.dumps(found))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
