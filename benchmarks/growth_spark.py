"""`growth_spark`: what ingest, sessions, graph and walks cost as events and items grow, on two cores and 12 GB.

Events come from the project's generator as Parquet files, written before the clock starts. A size is a process of its
own, warmed up by the whole chain on a small source. A line a stage and size: its cost an event against the smallest
size's (ratio < 1: dearer), seconds, largest memory of JVM and Python processes together while it ran, shuffled and
written bytes. The heap that an earlier stage of the size took is not given back: it counts in the later ones. With
``--quick`` there is one size, and no warm-up: it shows that the chain runs, and no speed.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.event_files import COLUMNS, LAST_FIFTH, write_events
from benchmarks.lines import find_versions, speed_line
from benchmarks.paired import Paired, Timing
from benchmarks.worker import Worker

CORES = 2
MEMORY_LIMIT_MB = 12_000
STAGES = ("ingest", "sessions", "graph", "walks")
_SIZES = ((1_000_000, 50_000), (5_000_000, 100_000), (20_000_000, 200_000))
_QUICK_SIZES = ((20_000, 2_000),)
_WARM_UP = (10_000, 1_000)
_TOLD = {
    "ingest": ("rows_in", "kept"),
    "sessions": ("kept", "num_sessions", "num_users", "num_active_items"),
    "graph": ("num_pairs", "pair_cost", "num_edges"),
    "walks": ("num_walks", "tokens", "num_edges"),
}
"""Counts of each stage's commit that explain how its cost grows."""

Costs = dict[str, dict[str, Any]]
"""By stage, what `growth_spark_worker` answers."""


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """Lines of the smallest size, then of the larger ones."""
    driver_memory, warm_up = ("1g", None) if quick else ("6g", _WARM_UP)
    base: tuple[dict[str, int], Costs] | None = None
    for events, items in _QUICK_SIZES if quick else _SIZES:
        with tempfile.TemporaryDirectory() as name:
            work, costs = run_chain(Path(name), (events, items), warm_up, driver_memory)
        base = base or (work, costs)
        for stage in STAGES:
            yield compare(stage, base, (work, costs), driver_memory, command)


def run_chain(
    folder: Path, size: tuple[int, int], warm_up: tuple[int, int] | None, driver_memory: str
) -> tuple[dict[str, int], Costs]:
    """(the work done, what each stage cost) of one size (events, items), in a fresh process."""
    conf, written = _write_source(folder / "full", size, driver_memory)
    with Worker("benchmarks.growth_spark_worker") as worker:
        worker.ask("load", conf=str(conf))
        if warm_up:
            worker.ask("warm_up", conf=str(_write_source(folder / "warm", warm_up, driver_memory)[0]))
        costs = {stage: worker.ask("run", conf=str(conf), stage=stage) for stage in STAGES}
    return {"events": written, "num_items": size[1]}, costs


def _write_source(folder: Path, size: tuple[int, int], driver_memory: str) -> tuple[Path, int]:
    """(config, number of events) of a folder that now holds a source."""
    conf = write_conf(folder, driver_memory)
    return conf, write_events(folder / "events", *size)


def write_conf(folder: Path, driver_memory: str) -> Path:
    """A config with the project's defaults over the folder's events; its path."""
    folder.mkdir(parents=True)
    source = {"kind": "files", "path": str(folder / "events"), "format": "parquet", "columns": COLUMNS}
    path = folder / "run.yaml"
    values = {
        "paths": {"lake": str(folder / "lake")},
        "source": source,
        "split": {"kind": "time", "cut": LAST_FIFTH},
        "index": None,
        "evaluate": None,
        "spark": {"master": f"local[{CORES}]", "driver_memory": driver_memory},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def compare(
    stage: str,
    base: tuple[dict[str, int], Costs],
    grown: tuple[dict[str, int], Costs],
    driver_memory: str,
    command: str,
) -> dict[str, Any]:
    """The line of one stage at one size, in seconds a million events."""
    (work, costs), cost = grown, grown[1][stage]
    peak = {part: round(size / 1e6) for part, size in cost["peak_bytes"].items()}
    return speed_line(
        "growth_spark",
        f"{stage} of the smallest size",
        Paired([_per_million(work, costs[stage])], [_per_million(base[0], base[1][stage])]),
        work | {"stage": stage, "base": base[0], "cores": CORES, "unit": "a million events"},
        find_versions("pyspark", "delta-spark", "numpy", "numba", "pyarrow"),
        command,
        stage_seconds={"wall": cost["wall"], "cpu": cost["cpu"]},
        peak_memory_mb=peak,
        memory_limit_mb=MEMORY_LIMIT_MB,
        driver_memory=driver_memory,
        is_within_limit=peak["total"] <= MEMORY_LIMIT_MB,
        shuffle_mb=cost["shuffle_bytes"] / 1e6,
        output_mb=cost["output_bytes"] / 1e6,
        commit_counts={name: cost["counts"][name] for name in _TOLD[stage] if name in cost["counts"]},
    )


def _per_million(work: dict[str, int], cost: dict[str, Any]) -> Timing:
    millions = work["events"] / 1e6
    return Timing(cost["wall"] / millions, cost["cpu"] / millions)
