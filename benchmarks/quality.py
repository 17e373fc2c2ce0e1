"""`quality DATASET MODEL`: `recspark run conf/benchmarks/DATASET/MODEL.yaml` for several seeds, and what it reached.

Ranking metrics come from the run's rows of table `metrics`; graphs are scored by `classify` on `item_embeddings`.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.classify import score_labels, unit_rows
from benchmarks.datasets.catalogue import Dataset, find_dataset
from benchmarks.lines import BenchmarkError, find_versions, quality_line
from benchmarks.metered import run_metered
from benchmarks.places import CONF, WORK, shared_data
from recspark.config import Run
from recspark.contracts import columns as c
from recspark.evaluate.histories import ALL
from recspark.index.item_vectors import read_item_vectors
from recspark.lake.arrow import find_table, read_table
from recspark.pipeline.open_run import open_finished_run


def run_quality(
    dataset: str, model: str, seeds: Sequence[int], overrides: Sequence[str], command: str, keeps_lake: bool = False
) -> Iterator[dict[str, Any]]:
    """A line for each of the data set's metrics.

    The lake starts empty, so the first seed's cpu-seconds are those of the whole chain; further seeds share what does
    not depend on them. With ``keeps_lake`` the first one too goes on from what an earlier run left there.
    """
    found = find_dataset(dataset)
    conf = find_conf(dataset, model)
    lake = WORK / "lakes" / f"{dataset}-{model}"
    if not keeps_lake:
        shutil.rmtree(lake, ignore_errors=True)
    values: dict[int, dict[str, float]] = {}
    cpu_seconds: list[float] = []
    kind = ""
    for seed in seeds:
        arguments = [*overrides, f"run.seed={seed}", f"paths.lake={lake}", *_source_path(found)]
        cpu_seconds.append(run_metered([sys.executable, "-m", "recspark.cli", "run", str(conf), *arguments]).cpu)
        run = open_finished_run(conf, arguments, "train" if found.read_labels else "evaluate")
        kind = run.config.model.kind
        values[seed] = read_values(run, found)
    more = {"cpu_seconds_by_seed": [round(s, 1) for s in cpu_seconds], "versions": find_versions("numpy", "pyspark")}
    for metric in values[seeds[0]]:
        by_seed = {seed: found_values[metric] for seed, found_values in values.items()}
        yield quality_line(dataset, model, kind, metric, by_seed, cpu_seconds[0], command, **more)


def find_conf(dataset: str, model: str) -> Path:
    """The config of a model.

    Raises: BenchmarkError listing those there are.
    """
    path = CONF / dataset / f"{model}.yaml"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise BenchmarkError(f"quality {dataset}: no config for {model!r}; there is {there}")
    return path


def read_values(run: Run, dataset: Dataset) -> dict[str, float]:
    """The data set's metrics of a finished run, by name."""
    if dataset.read_labels:
        labels = dataset.read_labels(shared_data() / dataset.raw)
        return score_graph(read_node_vectors(run, labels.shape[0]), labels, dataset.metrics)
    found = find_table(run.lake, run.stages["evaluate"], "metrics")
    model_id = found.record.facts["model_ids"][run.config.model.kind]
    return pick_metrics(read_table(found), run.stages["evaluate"].key, model_id, dataset.metrics)


def pick_metrics(metrics: pa.Table, stage_key: str, model_id: str, names: Sequence[str]) -> dict[str, float]:
    """{"recall@20": ...} of one evaluation of one model over all users; ``recall@20:cold_items`` of a segment.

    Raises: BenchmarkError naming what the evaluation does not hold.
    """
    rows = {
        f"{row[c.NAME]}@{row[c.K]}{'' if row[c.SEGMENT] == ALL else ':' + row[c.SEGMENT]}": row[c.VALUE]
        for row in metrics.to_pylist()
        if (row[c.STAGE_KEY], row[c.MODEL_ID]) == (stage_key, model_id)
    }
    if missing := [name for name in names if name not in rows]:
        raise BenchmarkError(f"metrics of {model_id}: no {', '.join(missing)}; there is {', '.join(sorted(rows))}")
    return {name: rows[name] for name in names}


def read_node_vectors(run: Run, num_nodes: int) -> NDArray[np.float32]:
    """[N, D] by node number (query side where it differs); nodes without a vector are zero."""
    embeddings = find_table(run.lake, run.stages["train"], "item_embeddings")
    items = read_item_vectors(embeddings, with_ids=True)
    assert items.item_id is not None
    vectors = np.zeros((num_nodes, items.dim), np.float32)
    vectors[items.item_id.cast(pa.int64()).to_numpy(zero_copy_only=False)] = items.queries
    return vectors


def score_graph(vectors: NDArray[np.float32], labels: Any, names: Sequence[str]) -> dict[str, float]:
    """F1 scores of the unit vectors by name; those of the raw ones beside them, called ``..._raw``."""
    found = {}
    unit = unit_rows(vectors)
    for percent in sorted({int(name.partition("@")[2]) for name in names}):
        for suffix, used in (("", unit), ("_raw", vectors)):
            score = score_labels(used, labels, percent)
            found |= {f"micro_f1{suffix}@{percent}": score.micro, f"macro_f1{suffix}@{percent}": score.macro}
    return found


def _source_path(dataset: Dataset) -> list[str]:
    """Where the events lie, unless the config names the raw files itself and they are where it says."""
    return [f"source.path={dataset.prepared}"] if dataset.prepare else []
