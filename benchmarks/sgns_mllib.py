"""`sgns_mllib`: walks table in, item vectors out, against Spark MLlib's Word2Vec on the same table.

Walks over a planted graph are made by the project's own chain, once. Then both sides stay warm in a process of their
own and read the same Delta version: stage `train` to its committed `item_embeddings`, MLlib to a Parquet file of
vectors. Same master, cores, dim, window and epochs; MLlib (hierarchical softmax) with 1 and with 2 partitions.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from benchmarks.corpus import neighbour_purity
from benchmarks.lines import BenchmarkError, find_versions, speed_line
from benchmarks.paired import Timing, run_pairs
from benchmarks.worker import ROOT, Worker

DIM, EPOCHS, CORES = 128, 1, 2
OURS = {"learning_rate": 0.1, "shared_negatives": 32}
"""As in `sgns`."""
_NUM_TOPICS = 100


def run(quick: bool, command: str) -> Iterator[dict[str, Any]]:
    """A line for each number of MLlib's partitions."""
    shape = {"num_items": 2_000, "num_walks": 5} if quick else {"num_items": 20_000, "num_walks": 10}
    partitions = (1,) if quick else (1, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        topic = write_planted_graph(folder / "edges.parquet", shape["num_items"])
        conf = write_conf(folder, shape["num_walks"])
        _make_walks(conf)
        with Worker("benchmarks.train_worker") as project, Worker("benchmarks.mllib_worker") as peer:
            sides = _Sides(folder, conf, topic, project, peer)
            for num_partitions in partitions:
                yield sides.compare(num_partitions, 1 if quick else 3, shape, command)


def write_planted_graph(path: Path, num_items: int, degree: int = 20) -> NDArray[np.int32]:
    """An edge list in which 4 of 5 edges stay inside a topic; the topic of each item."""
    random = np.random.default_rng(1)
    topic = (np.arange(num_items) % _NUM_TOPICS).astype(np.int32)
    src = np.repeat(np.arange(num_items), degree // 2)
    inside = (src + _NUM_TOPICS * random.integers(1, num_items // _NUM_TOPICS, len(src))) % num_items
    dst = np.where(random.random(len(src)) < 0.8, inside, random.integers(0, num_items, len(src)))
    pq.write_table(pa.table({"src": src, "dst": dst}), path)
    return topic


def write_conf(folder: Path, num_walks: int) -> Path:
    """The chain's config for both sides."""
    path = folder / "run.yaml"
    source = {"kind": "edges", "path": str(folder / "edges.parquet"), "format": "parquet", "directed": False}
    path.write_text(
        yaml.safe_dump(
            {
                "paths": {"lake": str(folder / "lake")},
                "source": source,
                "walks": {"num_walks": num_walks, "walk_length": 20},
                "model": {"embedding_dim": DIM},
                "training": {"epochs": EPOCHS, "window": 5, "backend": "cpu", "num_threads": CORES, **OURS},
                "index": None,
                "evaluate": None,
                "spark": {"master": f"local[{CORES}]", "driver_memory": "3g"},
            }
        )
    )
    return path


def _make_walks(conf: Path) -> None:
    command = [sys.executable, "-m", "recspark.cli", "run", str(conf), "--to", "walks"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if subprocess.run(command, stdout=sys.stderr, cwd=ROOT, env=environment, check=False).returncode:
        raise BenchmarkError("sgns_mllib: the chain up to the walks failed; its errors stand above")


class _Sides:
    """Both processes, warmed up."""

    def __init__(self, folder: Path, conf: Path, topic: NDArray[np.int32], project: Worker, peer: Worker) -> None:
        self._folder, self._topic = folder, topic
        self._project, self._peer = project, peer
        self._pristine = folder / "pristine"
        shutil.copytree(folder / "lake", self._pristine)
        self.tokens = project.ask("load", conf=str(conf), dim=DIM)["tokens"]
        self.versions = find_versions("pyspark", "delta-spark", "numpy", "numba") | peer.ask("load", conf=str(conf))

    def compare(self, num_partitions: int, runs: int, shape: dict[str, int], command: str) -> dict[str, Any]:
        """One line."""
        paired = run_pairs(lambda: self._run_peer(num_partitions), self._run_project, runs)
        work = shape | {
            "tokens": self.tokens, "walk_length": 20, "dim": DIM, "window": 5, "epochs": EPOCHS, "cores": CORES,
            "project": OURS,
        }  # fmt: skip
        quality = {side: self._purity(side) for side in ("project", "peer")}
        peer = f"MLlib Word2Vec, {num_partitions} partition{'s' if num_partitions > 1 else ''}"
        return speed_line("sgns_mllib", peer, paired, work, self.versions, command, neighbour_purity=quality)

    def _run_project(self) -> Timing:
        # A lake that has walks and no training yet: a second run of the stage would find it done.
        shutil.rmtree(self._folder / "lake")
        shutil.copytree(self._pristine, self._folder / "lake")
        return Timing(**self._project.ask("run", vectors=str(self._folder / "project.npy")))

    def _run_peer(self, num_partitions: int) -> Timing:
        vectors = str(self._folder / "peer.npy")
        arguments = {"dim": DIM, "window": 5, "epochs": EPOCHS, "num_partitions": num_partitions, "vectors": vectors}
        return Timing(**self._peer.ask("run", **arguments))

    def _purity(self, side: str) -> float:
        vectors = np.load(self._folder / f"{side}.npy")
        return neighbour_purity(vectors, self._topic, np.full(len(vectors), 100))
